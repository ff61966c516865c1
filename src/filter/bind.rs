//! A filter and a schema make questions that the indexes answer.

use std::ops;

use serde_json::Value;

use super::{Comparison, Condition, Filter, MAX_FILTER_DEPTH, MAX_FILTER_NODES, Step};
use crate::error::{Error, Result};
use crate::index::{Key, Test};
use crate::schema::{Field, FieldKind, Schema};
use crate::types::{IdKind, RowId};

/// A step of a filter that fits a schema; operands come first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Bound {
    /// A question about a field of that number.
    Field(usize, Test),
    /// Ascending, each once.
    Ids(Vec<RowId>),
    And(usize),
    Or(usize),
    Not,
}

/// Checks a filter against the limits and a schema.
pub(crate) fn bind(filter: &Filter, schema: &Schema) -> Result<Vec<Bound>> {
    check_limits(filter)?;
    filter.steps.iter().map(|step| bind_step(step, schema)).collect()
}

/// Fails for a filter of too many steps, or nested too deep.
pub(super) fn check_limits(filter: &Filter) -> Result<()> {
    check_nodes(filter.steps.len())?;
    let mut depths: Vec<usize> = Vec::new();
    for step in &filter.steps {
        let operands = match step {
            Step::Field(..) | Step::Ids(_) => 0,
            Step::Not => 1,
            Step::And(n) | Step::Or(n) => *n,
        };
        let inner = depths.drain(depths.len() - operands..).max().unwrap_or(0);
        depths.push(inner + 1);
    }
    match depths.last() {
        Some(depth) if *depth > MAX_FILTER_DEPTH => {
            let why = format!("at most {MAX_FILTER_DEPTH} levels of nesting, got {depth}");
            Err(Error::invalid("filter", why))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_nodes(nodes: usize) -> Result<()> {
    if nodes <= MAX_FILTER_NODES {
        return Ok(());
    }
    let why = format!(
        "at most {MAX_FILTER_NODES} conditions and operators: to ask for one of many values, use IN"
    );
    Err(Error::invalid("filter", why))
}

fn bind_step(step: &Step, schema: &Schema) -> Result<Bound> {
    Ok(match step {
        Step::And(n) => Bound::And(*n),
        Step::Or(n) => Bound::Or(*n),
        Step::Not => Bound::Not,
        Step::Ids(ids) => Bound::Ids(bind_ids(ids, schema.ids())?),
        Step::Field(name, condition) => {
            let number = schema.fields().iter().position(|field| field.name() == &**name);
            let number = number.ok_or_else(|| unknown("filter", name, schema))?;
            let field = &schema.fields()[number];
            let test = bind_condition(condition, field);
            let test =
                test.map_err(|why| Error::invalid("filter", format!("field {field}: {why}")))?;
            Bound::Field(number, test)
        }
    })
}

/// An error of `what` asks for a field that the schema does not declare.
pub(crate) fn unknown(what: &'static str, name: &str, schema: &Schema) -> Error {
    let declared: Vec<String> = schema.fields().iter().map(ToString::to_string).collect();
    let declared = match declared.as_slice() {
        [] => "this collection declares none: declare it when one is made \
               (`SchemaBuilder::field`), or in a copy (`CopyOptions::field`, `matryo copy --field`)"
            .to_owned(),
        some => format!("this collection declares {}", some.join(", ")),
    };
    Error::invalid(what, format!("no field {name:?}; {declared}"))
}

fn bind_ids(ids: &[RowId], kind: IdKind) -> Result<Vec<RowId>> {
    if let Some(wrong) = ids.iter().find(|id| id.kind() != kind) {
        return Err(Error::invalid("filter", wrong.wrong_kind(kind)));
    }
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// JSON has no other numbers, so what is not finite becomes null on its way here.
const NULL: &str = "nothing compares with null (as which NaN and infinity arrive): `EXISTS field` \
                    finds rows with a value, `NOT EXISTS field` those without";

fn bind_condition(condition: &Condition, field: &Field) -> Result<Test, String> {
    use ops::Bound::{Excluded, Included, Unbounded};
    let key = |value: &Value| match value {
        Value::Null => Err(NULL.to_owned()),
        value => Key::of(field.kind(), value),
    };
    Ok(match condition {
        Condition::Exists => Test::Exists,
        Condition::Compare(comparison, value) => {
            let key = key(value)?;
            match comparison {
                Comparison::Eq => Test::Keys(vec![key]),
                Comparison::Lt => Test::Range(Unbounded, Excluded(key)),
                Comparison::Le => Test::Range(Unbounded, Included(key)),
                Comparison::Gt => Test::Range(Excluded(key), Unbounded),
                Comparison::Ge => Test::Range(Included(key), Unbounded),
            }
        }
        Condition::Between(low, high) => Test::Range(Included(key(low)?), Included(key(high)?)),
        Condition::In(values) => {
            let mut keys = values.iter().map(key).collect::<Result<Vec<_>, _>>()?;
            keys.sort_unstable();
            keys.dedup();
            Test::Keys(keys)
        }
        Condition::Prefix(prefix) if field.kind() == FieldKind::Keyword => {
            Test::Prefix(prefix.as_str().into())
        }
        Condition::Prefix(_) => return Err("only keywords have prefixes".to_owned()),
    })
}
