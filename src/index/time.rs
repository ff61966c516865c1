//! RFC 3339 texts.

/// Milliseconds from 1970 to the moment a text names: RFC 3339, or its date
/// alone. A leap second is the first moment of the next minute.
pub(super) fn milliseconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let days = date(bytes.get(..10)?)?;
    match bytes.get(10..) {
        Some([]) => Some(days * 86_400_000),
        Some([b'T' | b't' | b' ', rest @ ..]) => Some(days * 86_400_000 + time(rest)?),
        _ => None,
    }
}

/// Whether a text would name a moment, if it said in which zone.
pub(super) fn lacks_zone(text: &str) -> bool {
    milliseconds(text).is_none() && milliseconds(&format!("{text}Z")).is_some()
}

/// Days from 1970 to `YYYY-MM-DD`.
fn date(text: &[u8]) -> Option<i64> {
    let &[_, _, _, _, b'-', _, _, b'-', _, _] = text else { return None };
    let (year, month, day) = (number(&text[..4])?, number(&text[5..7])?, number(&text[8..])?);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let february = if leap { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month).ok()?.checked_sub(1)?;
    if !(1..=*lengths.get(before)?).contains(&day) {
        return None;
    }
    // Leap days before this year: year 0 is one.
    let leaps = (year + 3) / 4 - (year + 99) / 100 + (year + 399) / 400;
    let days = year * 365 + leaps + lengths[..before].iter().sum::<i64>() + day - 1;
    Some(days - 719_528)
}

/// Milliseconds of `HH:MM:SS[.digits](Z|+HH:MM|-HH:MM)`, in UTC.
fn time(text: &[u8]) -> Option<i64> {
    let (&[_, _, b':', _, _, b':', _, _], mut rest) = text.split_at_checked(8)? else {
        return None;
    };
    let (hour, minute, second) = (number(&text[..2])?, number(&text[3..5])?, number(&text[6..8])?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut fraction = 0;
    if let [b'.', digits @ ..] = rest {
        let len = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        let kept = number(&digits[..len.min(3)])?;
        fraction = kept * 10i64.pow(3 - len.min(3) as u32);
        rest = &digits[len..];
    }
    let offset = match rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    Some((((hour * 60 + minute) - offset) * 60 + second) * 1000 + fraction)
}

/// Digits, at least one.
fn number(digits: &[u8]) -> Option<i64> {
    let value = |n: i64, b: &u8| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0'));
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, value))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_counted_from_1970() {
        for (text, expected) in [
            ("1970-01-01", 0),
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2000-02-29t12:34:56.7z", 951_827_696_700),
            ("2024-05-01 02:00:00+02:00", 1_714_521_600_000),
            ("2024-04-30T19:30:00.0009999-04:30", 1_714_521_600_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000),
            ("0000-01-01", -62_167_219_200_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(milliseconds(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = -62_167_219_200_000;
        for (year, month) in (0..3000).flat_map(|y| (1..=12).map(move |m| (y, m))) {
            for day in 1..=31 {
                if let Some(found) = milliseconds(&format!("{year:04}-{month:02}-{day:02}")) {
                    assert_eq!(found, expected, "{year}-{month}-{day}");
                    expected += 86_400_000;
                }
            }
        }
    }

    #[test]
    fn a_time_without_a_zone_is_told_from_other_texts() {
        for text in ["2024-01-01T00:00:00", "2024-01-01 23:59:59.5", "2024-02-29t00:00:00.123456"] {
            assert!(lacks_zone(text) && milliseconds(text).is_none(), "{text}");
        }
        for text in ["", "2024-01-01", "2024-01-01T", "2024-01-01T24:00:00", "2024-01-01T00:00:00Z"]
        {
            assert!(!lacks_zone(text), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_moments() {
        for text in [
            "",
            "2024",
            "2024-5-1",
            "2024-13-01",
            "2024-00-10",
            "2023-02-29",
            "1900-02-29",
            "2024-01-00",
            "2024-01-01T",
            "2024-01-01T00:00:00",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+1:00",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00Zz",
            "2024-01-01Z",
            "+024-01-01",
            "2024-01-0\u{661}",
            "20240101T000000Z",
        ] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
    }
}
