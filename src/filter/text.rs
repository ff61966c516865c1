//! Reads the string form of a filter: a lexer, and operands and operators on two
//! stacks. No recursion: text from outside chooses its own depth.

use serde_json::{Number, Value};

use super::bind::{check_limits, check_nodes};
use super::{Comparison, Condition, Filter, MAX_FILTER_DEPTH, Step};
use crate::error::{Error, Result};
use crate::types::RowId;

/// Words that are no names of fields unless quoted.
const WORDS: [&str; 12] = [
    "AND", "OR", "NOT", "IN", "BETWEEN", "EXISTS", "PREFIX", "IDS", "TRUE", "FALSE", "NULL", "LIKE",
];
const SYMBOLS: [&str; 11] = ["<=", ">=", "!=", "<>", "==", "=", "<", ">", "(", ")", ","];

/// Whether a name can stand without quotes.
pub(super) fn is_plain(name: &str) -> bool {
    name.starts_with(begins_name) && name.chars().all(in_name) && word(name).is_none()
}

fn begins_name(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

fn word(text: &str) -> Option<&'static str> {
    WORDS.into_iter().find(|word| word.eq_ignore_ascii_case(text))
}

#[derive(Debug, Clone, PartialEq)]
enum Token<'t> {
    Word(&'static str),
    Symbol(&'static str),
    Name(String),
    Text(String),
    Number(&'t str),
    End,
}

/// An operator that waits for its right operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operator {
    /// An open parenthesis, and where.
    Paren(usize),
    Or,
    And,
    Not,
}

pub(super) fn parse(text: &str) -> Result<Filter> {
    let mut parser = Parser::new(text)?;
    loop {
        parser.operand()?;
        if parser.operators()? {
            break;
        }
    }
    let filter = parser.operands.pop().expect("every operator had its operands");
    check_limits(&filter)?;
    Ok(filter)
}

struct Parser<'t> {
    text: &'t str,
    /// The token at hand, where it begins, and where the rest does.
    token: Token<'t>,
    at: usize,
    next: usize,
    operands: Vec<Filter>,
    waiting: Vec<Operator>,
    /// Parentheses and `NOT`s among them.
    depth: usize,
    /// Conditions so far.
    conditions: usize,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Result<Self> {
        let mut parser = Self {
            text,
            token: Token::End,
            at: 0,
            next: 0,
            operands: Vec::new(),
            waiting: Vec::new(),
            depth: 0,
            conditions: 0,
        };
        parser.advance()?;
        Ok(parser)
    }

    /// Reads up to the end of a condition: what may stand before it, and itself.
    fn operand(&mut self) -> Result<()> {
        loop {
            let operator = match self.token {
                Token::Symbol("(") => Operator::Paren(self.at),
                Token::Word("NOT") => Operator::Not,
                _ => break,
            };
            self.depth += 1;
            if self.depth > MAX_FILTER_DEPTH {
                let why = format!("nested deeper than {MAX_FILTER_DEPTH} levels");
                return Err(self.error_at(self.at, &why));
            }
            self.waiting.push(operator);
            self.advance()?;
        }
        let (step, negated) = self.condition()?;
        let condition = Filter { steps: vec![step] };
        self.operands.push(if negated { condition.not() } else { condition });
        self.conditions += 1;
        check_nodes(self.conditions)
    }

    /// Reads what may stand behind a condition, up to the next one; true at the end.
    fn operators(&mut self) -> Result<bool> {
        loop {
            match self.token {
                Token::Word("AND") => self.wait(Operator::And),
                Token::Word("OR") => self.wait(Operator::Or),
                Token::Symbol(")") => {
                    self.join_down_to(Operator::Or);
                    let Some(Operator::Paren(_)) = self.waiting.pop() else {
                        return Err(self.error_at(self.at, "this `)` closes nothing"));
                    };
                    self.depth -= 1;
                    self.advance()?;
                    continue;
                }
                Token::End => {
                    self.join_down_to(Operator::Or);
                    if let Some(Operator::Paren(at)) = self.waiting.pop() {
                        return Err(self.error_at(at, "this `(` is not closed"));
                    }
                    return Ok(true);
                }
                _ => return Err(self.expected("AND, OR or the end")),
            }
            self.advance()?;
            return Ok(false);
        }
    }

    fn wait(&mut self, operator: Operator) {
        self.join_down_to(operator);
        self.waiting.push(operator);
    }

    /// Applies the operators on the stack that bind at least as closely as this one.
    fn join_down_to(&mut self, operator: Operator) {
        while let Some(top) = self.waiting.pop_if(|top| *top >= operator) {
            let right = self.operands.pop().expect("an operand follows every operator");
            if top == Operator::Not {
                self.depth -= 1;
                self.operands.push(right.not());
                continue;
            }
            let left = self.operands.pop().expect("an operand stands before it");
            let join = if top == Operator::And { Filter::and } else { Filter::or };
            self.operands.push(join(left, right));
        }
    }

    /// A condition, and whether it is negated.
    fn condition(&mut self) -> Result<(Step, bool)> {
        match self.token {
            Token::Word("IDS") => {
                self.advance()?;
                return Ok((Step::Ids(self.list(Self::id)?.into()), false));
            }
            Token::Word("EXISTS") => {
                self.advance()?;
                return Ok((Step::Field(self.name()?, Condition::Exists), false));
            }
            _ => {}
        }
        let name = self.name()?;
        let negated = self.token == Token::Word("NOT");
        if negated {
            self.advance()?;
        }
        let (condition, unequal) = self.test(negated)?;
        Ok((Step::Field(name, condition), negated != unequal))
    }

    /// What stands behind a field's name, and whether it is `!=`.
    fn test(&mut self, negated: bool) -> Result<(Condition, bool)> {
        let expected = if negated {
            "IN, BETWEEN, PREFIX or EXISTS"
        } else {
            "a comparison, IN, BETWEEN, PREFIX or EXISTS"
        };
        let condition = match self.token {
            Token::Word("IN") => {
                self.advance()?;
                Condition::In(self.list(Self::value)?.into())
            }
            Token::Word("BETWEEN") => self.between()?,
            Token::Word("EXISTS") => {
                self.advance()?;
                Condition::Exists
            }
            Token::Word("PREFIX") => self.prefix()?,
            Token::Word("LIKE") => {
                return Err(self.error_at(self.at, "LIKE is not supported: use PREFIX 'text'"));
            }
            Token::Name(ref name) if !negated && name.eq_ignore_ascii_case("is") => {
                let why = "there is no IS: `NOT EXISTS field` finds rows without a value, \
                           `EXISTS field` those with one";
                return Err(self.error_at(self.at, why));
            }
            Token::Symbol(symbol) if !negated => {
                let Some(comparison) = comparison(symbol) else {
                    return Err(self.expected(expected));
                };
                self.advance()?;
                let value = self.value()?;
                return Ok((Condition::Compare(comparison, value), matches!(symbol, "!=" | "<>")));
            }
            _ => return Err(self.expected(expected)),
        };
        Ok((condition, false))
    }

    /// Both bounds, from the word BETWEEN on.
    fn between(&mut self) -> Result<Condition> {
        self.advance()?;
        let low = self.value()?;
        if self.token != Token::Word("AND") {
            return Err(self.expected("AND and the upper bound"));
        }
        self.advance()?;
        Ok(Condition::Between(low, self.value()?))
    }

    /// The text behind the word PREFIX.
    fn prefix(&mut self) -> Result<Condition> {
        self.advance()?;
        let Token::Text(prefix) = &mut self.token else {
            return Err(self.expected("text between single quotes"));
        };
        let prefix = std::mem::take(prefix);
        self.advance()?;
        Ok(Condition::Prefix(prefix))
    }

    fn name(&mut self) -> Result<Box<str>> {
        let Token::Name(name) = &mut self.token else {
            return Err(self.expected("the name of a field"));
        };
        let name = std::mem::take(name).into();
        self.advance()?;
        Ok(name)
    }

    fn value(&mut self) -> Result<Value> {
        let value = match &mut self.token {
            Token::Text(text) => Value::String(std::mem::take(text)),
            Token::Word("TRUE") => Value::Bool(true),
            Token::Word("FALSE") => Value::Bool(false),
            Token::Word("NULL") => Value::Null,
            Token::Number(digits) => {
                let number: Option<Number> = serde_json::from_str(digits).ok();
                Value::Number(number.ok_or_else(|| self.expected("a number"))?)
            }
            _ => return Err(self.expected("a value: a number, 'text', true or false")),
        };
        self.advance()?;
        Ok(value)
    }

    fn id(&mut self) -> Result<RowId> {
        let id = match &mut self.token {
            Token::Text(text) => Some(RowId::from(std::mem::take(text))),
            Token::Number(digits) => digits.parse().ok().map(RowId::U64),
            _ => None,
        };
        let id = id.ok_or_else(|| self.expected("an id: a whole number or 'text'"))?;
        self.advance()?;
        Ok(id)
    }

    /// Items between parentheses; there may be none.
    fn list<T>(&mut self, item: fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        if self.token != Token::Symbol("(") {
            return Err(self.expected("`(`"));
        }
        self.advance()?;
        let mut items = Vec::new();
        if self.token != Token::Symbol(")") {
            items.push(item(self)?);
            while self.token == Token::Symbol(",") {
                self.advance()?;
                items.push(item(self)?);
            }
        }
        if self.token != Token::Symbol(")") {
            return Err(self.expected("`,` or `)`"));
        }
        self.advance()?;
        Ok(items)
    }

    fn advance(&mut self) -> Result<()> {
        let rest = &self.text[self.next..];
        self.at = self.next + (rest.len() - rest.trim_start().len());
        let (token, len) = self.lex(&self.text[self.at..])?;
        (self.token, self.next) = (token, self.at + len);
        Ok(())
    }

    /// The first token of `rest`, and its length.
    fn lex(&self, rest: &'t str) -> Result<(Token<'t>, usize)> {
        let until = |keep: fn(char) -> bool| rest.find(|c| !keep(c)).unwrap_or(rest.len());
        match rest.chars().next() {
            None => Ok((Token::End, 0)),
            Some('\'') => self.quoted(rest, '\'').map(|(text, len)| (Token::Text(text), len)),
            Some('"') => self.quoted(rest, '"').map(|(name, len)| (Token::Name(name), len)),
            Some(c) if begins_name(c) => {
                let len = until(in_name);
                let name = &rest[..len];
                let token = word(name).map_or_else(|| Token::Name(name.to_owned()), Token::Word);
                Ok((token, len))
            }
            Some('0'..='9' | '-' | '+' | '.') => {
                let len = until(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '+'));
                Ok((Token::Number(&rest[..len]), len))
            }
            Some(other) => {
                let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
                let why = format!("expected a filter, got {other:?}");
                let symbol = symbol.ok_or_else(|| self.error_at(self.at, &why))?;
                Ok((Token::Symbol(symbol), symbol.len()))
            }
        }
    }

    /// What stands between the quotes that `rest` begins with; doubled ones are one.
    fn quoted(&self, rest: &str, quote: char) -> Result<(String, usize)> {
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c != quote {
                text.push(c);
            } else if chars.next_if(|next| next.1 == quote).is_some() {
                text.push(quote);
            } else {
                return Ok((text, at + 1));
            }
        }
        Err(self.error_at(self.at, &format!("this {quote} is not closed")))
    }

    fn expected(&self, what: &str) -> Error {
        let shown: String = self.text[self.at..self.next].chars().take(40).collect();
        let got = if shown.is_empty() { "the end".to_owned() } else { format!("`{shown}`") };
        self.error_at(self.at, &format!("expected {what}, got {got}"))
    }

    /// Columns count characters, from 1.
    fn error_at(&self, at: usize, why: &str) -> Error {
        let column = self.text[..at].chars().count() + 1;
        Error::invalid("filter", format!("column {column}: {why}"))
    }
}

/// What a symbol compares by; `!=` is the opposite of `=`.
fn comparison(symbol: &str) -> Option<Comparison> {
    match symbol {
        "=" | "==" | "!=" | "<>" => Some(Comparison::Eq),
        "<" => Some(Comparison::Lt),
        "<=" => Some(Comparison::Le),
        ">" => Some(Comparison::Gt),
        ">=" => Some(Comparison::Ge),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
