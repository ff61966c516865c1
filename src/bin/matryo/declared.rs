//! Payload fields as arguments: `--field year:integer`, `--field 'tags:keyword[]'`.

use matryo::{CopyOptions, FieldKind, Schema, SchemaBuilder};

/// A field to declare: its name, what values it has, and whether these are arrays.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    name: String,
    kind: FieldKind,
    list: bool,
}

impl Declared {
    /// Reads `NAME:KIND`, or `NAME:KIND[]` for arrays.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected NAME:KIND, got {text}");
        let (name, kind) = text.rsplit_once(':').ok_or_else(wrong)?;
        let element = kind.strip_suffix("[]");
        let found = element.unwrap_or(kind).parse().map_err(|e: matryo::Error| e.to_string())?;
        Ok(Self { name: name.to_owned(), kind: found, list: element.is_some() })
    }

    pub(crate) fn in_schema(&self, schema: SchemaBuilder) -> SchemaBuilder {
        let declare = if self.list { SchemaBuilder::list_field } else { SchemaBuilder::field };
        declare(schema, self.name.clone(), self.kind)
    }

    pub(crate) fn in_copy(&self, copy: CopyOptions) -> CopyOptions {
        let declare = if self.list { CopyOptions::list_field } else { CopyOptions::field };
        declare(copy, self.name.clone(), self.kind)
    }

    /// What there is to say if a collection has no such field.
    pub(crate) fn missing_in(&self, schema: &Schema) -> Option<String> {
        let found = schema.fields().iter().find(|field| field.name() == self.name);
        if found.is_some_and(|f| (f.kind(), f.is_list()) == (self.kind, self.list)) {
            return None;
        }
        let has = found.map_or_else(|| "none of that name".to_owned(), written);
        let Self { name, kind, list } = self;
        Some(format!("field {name}: it has {has}, got {name}:{kind}{}", brackets(*list)))
    }
}

/// A declared field as [`Declared::parse`] reads it.
pub(crate) fn written(field: &matryo::Field) -> String {
    format!("{}:{}{}", field.name(), field.kind(), brackets(field.is_list()))
}

fn brackets(list: bool) -> &'static str {
    if list { "[]" } else { "" }
}
