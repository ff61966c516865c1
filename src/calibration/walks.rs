//! How far walks over graphs must go: what `query/margins.rs` measures and `query/graph.rs` uses.

use super::{CHECKED_RECALLS, Check, between};
use crate::codec::{Fields, FormatError, Reader, f32_bytes, f32s, layout, put};

layout!(
    /// FORMAT.md, section "Reach of walks".
    calibration_reach, 104, {
    SCALE: 0, 4;
    MARGINS: 4, 20;
    SCORED: 24, 20;
    CHECKS: 44, 60;
});

/// For each of [`CHECKED_RECALLS`], how far a walk goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WalkMargins {
    /// What margins are multiplied by before they are believed.
    pub(crate) scale: f32,
    /// How far below the k-th best estimate a walk goes on, in sines.
    pub(crate) margins: [f32; CHECKED_RECALLS.len()],
    /// Mean number of rows that were scored.
    pub(crate) scored: [f32; CHECKED_RECALLS.len()],
    /// What searches that began with walks found.
    pub(crate) checks: [Check; CHECKED_RECALLS.len()],
}

impl WalkMargins {
    /// Where nothing was measured. Read off `benches/graph.rs` on 100 000 text vectors, over 1 bit x
    /// 1024 dimensions and with queries from elsewhere; above .98 it is extrapolated. It hardly
    /// depends on the number of rows: what it spans is the error of the estimates and the detours
    /// of the graph, not a place in a ranking.
    pub(crate) const UNCALIBRATED: Self = Self {
        scale: 1.0,
        margins: [0.054, 0.085, 0.114, 0.204, 0.31],
        scored: [1500.0, 2400.0, 4200.0, 24_000.0, 100_000.0],
        checks: [Check { recall: 0.0, within: 0.0, compared: 0.0 }; CHECKED_RECALLS.len()],
    };

    /// The margin for a recall.
    pub(crate) fn margin(&self, recall: f64) -> f32 {
        self.scale * between(recall, &self.margins, |a, b, t| a + t * (b - a))
    }

    /// How many rows are scored for a recall.
    pub(crate) fn scored(&self, recall: f64) -> f64 {
        f64::from(between(recall, &self.scored, |a, b, t| a * (b / a).powf(t)))
    }

    /// What a search may expect, by the checks around it.
    pub(crate) fn check(&self, recall: f64) -> Check {
        between(recall, &self.checks, Check::mix)
    }

    pub(super) fn encode(&self) -> [u8; calibration_reach::LEN] {
        use calibration_reach as f;
        let mut out = [0; f::LEN];
        put(&mut out, f::SCALE, &self.scale.to_le_bytes());
        put(&mut out, f::MARGINS, &f32_bytes(&self.margins));
        put(&mut out, f::SCORED, &f32_bytes(&self.scored));
        put(&mut out, f::CHECKS, &Check::encode(&self.checks));
        out
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, FormatError> {
        use calibration_reach as f;
        let at = r.at();
        let b = r.take(f::LEN)?;
        let mut margins =
            Self { scale: f32::from_bits(b.u32(f::SCALE)), ..WalkMargins::UNCALIBRATED };
        let five = |range, to: &mut [f32; CHECKED_RECALLS.len()]| {
            to.iter_mut().zip(f32s(b.field(range))).for_each(|(to, from)| *to = from);
        };
        five(f::MARGINS, &mut margins.margins);
        five(f::SCORED, &mut margins.scored);
        margins.checks = Check::decode(&f32s(b.field(f::CHECKS)));
        let fine = |values: &[f32]| {
            values.is_sorted() && values.iter().all(|v| v.is_finite() && *v >= 0.0)
        };
        let checked = margins.checks.iter().all(Check::is_finite);
        let scaled = margins.scale.is_finite() && margins.scale > 0.0;
        if !(fine(&margins.margins) && fine(&margins.scored) && checked && scaled) {
            return Err(FormatError::new(at, "reach of walks contradicts itself"));
        }
        Ok(margins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_and_nonsense_is_refused() {
        let bytes = WalkMargins::UNCALIBRATED.encode();
        assert_eq!(WalkMargins::decode(&mut Reader::new(&bytes)), Ok(WalkMargins::UNCALIBRATED));
        let nan = f32::NAN.to_le_bytes();
        for (at, four) in [
            (0, nan),
            (0, [0; 4]),
            (4, nan),
            (4, 1f32.to_le_bytes()),
            (8, (-1f32).to_le_bytes()),
            (24, f32::INFINITY.to_le_bytes()),
            (28, [0; 4]),
            (44, nan),
        ] {
            let mut bad = bytes;
            bad[at..at + 4].copy_from_slice(&four);
            assert!(WalkMargins::decode(&mut Reader::new(&bad)).is_err(), "at {at}");
        }
    }

    #[test]
    fn more_recall_reaches_farther() {
        let recalls = [0.1, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99, 0.999, 0.9999, 1.0];
        let far: Vec<_> = recalls
            .iter()
            .map(|r| (WalkMargins::UNCALIBRATED.margin(*r), WalkMargins::UNCALIBRATED.scored(*r)))
            .collect();
        assert!(far.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1), "{far:?}");
        assert!((far[4].0 - 0.114).abs() < 1e-6 && (far[4].1 - 4200.0).abs() < 1.0);
    }
}
