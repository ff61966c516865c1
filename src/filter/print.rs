//! The string form of a filter.

use std::fmt;

use serde_json::Value;

use super::{Comparison, Condition, Filter, Step};
use crate::types::RowId;

impl Comparison {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }
}

/// What is still to be written.
enum Todo {
    Text(&'static str),
    /// The operand that ends with this step, inside another operation or not.
    Operand(usize, bool),
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self.sizes();
        let mut todo = vec![Todo::Operand(self.steps.len() - 1, false)];
        while let Some(next) = todo.pop() {
            match next {
                Todo::Text(text) => f.write_str(text)?,
                Todo::Operand(at, inside) => self.print(f, at, inside, &sizes, &mut todo)?,
            }
        }
        Ok(())
    }
}

impl Filter {
    /// Writes how the operand begins that ends with step `at`, and leaves the rest to do.
    fn print(
        &self,
        f: &mut fmt::Formatter<'_>,
        at: usize,
        inside: bool,
        sizes: &[usize],
        todo: &mut Vec<Todo>,
    ) -> fmt::Result {
        let (operands, word) = match &self.steps[at] {
            Step::Field(name, condition) => return print_condition(f, name, condition, false),
            Step::Ids(ids) => {
                f.write_str("IDS")?;
                return print_list(f, ids, print_id);
            }
            Step::Not => {
                if let Step::Field(name, equal @ Condition::Compare(Comparison::Eq, _)) =
                    &self.steps[at - 1]
                {
                    return print_condition(f, name, equal, true);
                }
                todo.push(Todo::Operand(at - 1, true));
                return f.write_str("NOT ");
            }
            Step::And(n) => (*n, " AND "),
            Step::Or(n) => (*n, " OR "),
        };
        if inside {
            f.write_str("(")?;
            todo.push(Todo::Text(")"));
        }
        let mut end = at;
        for left in (0..operands).rev() {
            todo.push(Todo::Operand(end - 1, true));
            if left > 0 {
                todo.push(Todo::Text(word));
            }
            end -= sizes[end - 1];
        }
        Ok(())
    }

    /// Number of steps of the operand that ends at each step.
    fn sizes(&self) -> Vec<usize> {
        let mut sizes = Vec::with_capacity(self.steps.len());
        let mut stack = Vec::new();
        for step in &self.steps {
            let operands = match step {
                Step::Field(..) | Step::Ids(_) => 0,
                Step::Not => 1,
                Step::And(n) | Step::Or(n) => *n,
            };
            let size = 1 + stack.drain(stack.len() - operands..).sum::<usize>();
            stack.push(size);
            sizes.push(size);
        }
        sizes
    }
}

fn print_condition(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    condition: &Condition,
    negated: bool,
) -> fmt::Result {
    if *condition == Condition::Exists {
        f.write_str("EXISTS ")?;
    }
    print_name(f, name)?;
    match condition {
        Condition::Exists => Ok(()),
        Condition::Compare(comparison, value) => {
            let symbol = if negated { "!=" } else { comparison.symbol() };
            write!(f, " {symbol} ")?;
            print_value(f, value)
        }
        Condition::Between(low, high) => {
            f.write_str(" BETWEEN ")?;
            print_value(f, low)?;
            f.write_str(" AND ")?;
            print_value(f, high)
        }
        Condition::In(values) => {
            f.write_str(" IN ")?;
            print_list(f, values, print_value)
        }
        Condition::Prefix(prefix) => {
            f.write_str(" PREFIX ")?;
            print_text(f, prefix)
        }
    }
}

fn print_list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    print: fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("(")?;
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        print(f, item)?;
    }
    f.write_str(")")
}

fn print_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if super::text::is_plain(name) {
        return f.write_str(name);
    }
    write!(f, "\"{}\"", name.replace('"', "\"\""))
}

fn print_id(f: &mut fmt::Formatter<'_>, id: &RowId) -> fmt::Result {
    match id {
        RowId::U64(n) => write!(f, "{n}"),
        RowId::Str(text) => print_text(f, text),
    }
}

/// Arrays and objects have no string form; nothing accepts them either.
fn print_value(f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::String(text) => print_text(f, text),
        other => write!(f, "{other}"),
    }
}

fn print_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "'{}'", text.replace('\'', "''"))
}
