//! Rows of the file made objects of the collection, in chunks. Runs on a thread of its own, for files are read by waiting.

use serde_json::{Map, Value, json};
use tokio::sync::mpsc::Sender;

use crate::chunk::{Chunk, Failed, Kept, Object, Row};
use crate::collection::Collection;
use crate::error::Result;
use crate::ids::id;
use crate::options::{IdRule, Options, TenantRule};
use crate::properties::normalised;
use crate::source::{Next, Rows};

/// Sends chunks until the file's end, or until nobody takes them any more.
pub(crate) fn read(
    rows: &mut dyn Rows,
    first: u64,
    options: &Options,
    collection: &Collection,
    chunks: &Sender<Result<Chunk>>,
) {
    let sent = rows.skip(first).and_then(|()| {
        loop {
            let (chunk, is_last) = next_chunk(rows, options, collection)?;
            let is_empty = chunk.objects.is_empty() && chunk.failed.is_empty();
            if (!is_empty && chunks.blocking_send(Ok(chunk)).is_err()) || is_last {
                return Ok(());
            }
        }
    });
    if let Err(error) = sent {
        // Nobody is there: the import has ended already.
        let _ = chunks.blocking_send(Err(error));
    }
}

fn next_chunk(rows: &mut dyn Rows, options: &Options, collection: &Collection) -> Result<(Chunk, bool)> {
    let mut chunk = Chunk::default();
    let mut bytes = 0;
    while chunk.objects.len() + chunk.failed.len() < options.chunk_rows && bytes < options.chunk_bytes {
        let number = match rows.next()? {
            None => return Ok((chunk, true)),
            Some(Next::Failed(failed)) => {
                let number = failed.number;
                chunk.failed.push(failed);
                number
            }
            Some(Next::Row(row)) => {
                bytes += row.bytes;
                let number = row.number;
                match object(row, options, collection) {
                    Ok(object) => chunk.objects.push(object),
                    Err(failed) => chunk.failed.push(failed),
                }
                number
            }
        };
        chunk.rows_to_here = number;
        chunk.position = rows.position();
    }
    Ok((chunk, false))
}

/// An object of a row.
fn object(row: Row, options: &Options, collection: &Collection) -> Result<Object, Failed> {
    let number = row.number;
    let line = options.failed.as_ref().and_then(|_| line(&row));
    made(row, options, collection).map_err(|reason| Failed { number, reason, line })
}

/// A row as one of JSONL that an import takes.
fn line(row: &Row) -> Option<String> {
    let mut line = match &row.kept {
        Kept::Line(line) => return Some(line.clone()),
        Kept::Properties => json!({"properties": row.properties}),
        Kept::Nothing => return None,
    };
    for (key, value) in [("id", &row.id), ("tenant", &row.tenant)] {
        if let (Some(value), Some(fields)) = (value, line.as_object_mut()) {
            fields.insert(key.into(), value.clone().into());
        }
    }
    Some(line.to_string())
}

fn made(row: Row, options: &Options, collection: &Collection) -> Result<Object, String> {
    let Row { number, id: own, tenant, mut properties, kept, .. } = row;
    let class = &collection.properties;
    let tenant = match &options.tenant {
        TenantRule::Named(name) => Some(name.clone()),
        TenantRule::Property(name) => match properties.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => return Err(format!("'{name}', which --tenant-property names, is no text")),
        },
        TenantRule::Row if tenant.is_none() && collection.has_tenants && !class.contains_key("tenant") => {
            beside(&mut properties, "tenant")?
        }
        TenantRule::Row => tenant,
    };
    let tenant = tenant.unwrap_or_default();
    if collection.has_tenants && tenant.is_empty() {
        let message = "the collection has tenants, and the row says none: give --tenant or --tenant-property";
        return Err(message.into());
    }
    if !collection.has_tenants && !tenant.is_empty() {
        return Err(format!("the collection has no tenants, and the row is of the tenant '{tenant}'"));
    }
    let by_property = match &options.ids {
        IdRule::Property(_) if own.is_none() => Some(id(&options.ids, &collection.name, number, None, &properties)?),
        _ => None,
    };
    let own = match own {
        None if by_property.is_none() && !class.contains_key("id") => beside(&mut properties, "id")?,
        own => own,
    };
    // What only said an id or a tenant is no property.
    let said = [
        if let IdRule::Property(name) = &options.ids { Some(name) } else { None },
        if let TenantRule::Property(name) = &options.tenant { Some(name) } else { None },
    ];
    for name in said.into_iter().flatten().filter(|name| !class.contains_key(*name)) {
        properties.remove(name);
    }
    let has_own = own.is_some();
    let is_whole_object = matches!(properties.get("properties"), Some(Value::Object(_)));
    if is_whole_object && !class.contains_key("properties") && !options.allow_new_properties {
        return Err("a row is its properties, or has 'id', 'tenant' and 'properties' and nothing else: of objects as \
                    GET /v1/objects answers them, jq -c '{id, tenant, properties}' leaves these"
            .into());
    }
    let properties = normalised(properties, class, options.allow_new_properties)?;
    let id = match by_property {
        Some(id) => id,
        None => id(&options.ids, &collection.name, number, own, &properties)?,
    };
    let json = serde_json::to_string(&properties).map_err(|error| format!("it cannot be written as JSON: {error}"))?;
    let kept = match kept {
        Kept::Line(_) if options.failed.is_none() => Kept::Nothing,
        Kept::Line(line) if !has_own => Kept::Line(with_id(line, &id)),
        kept => kept,
    };
    Ok(Object { number, id, tenant, json, properties, kept })
}

/// The line of an object in JSON with an id, which stands for one that it has already.
fn with_id(mut line: String, id: &str) -> String {
    line.pop();
    line.push_str(&format!(",\"id\":\"{id}\"}}"));
    line
}

/// A text that stands among the properties and is none.
fn beside(properties: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match properties.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("its {name} is {other}, and is to be a text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(ids: IdRule, tenant: TenantRule) -> Options {
        Options { ids, tenant, ..crate::options::tests::options() }
    }

    fn collection(has_tenants: bool) -> Collection {
        let class = json!({
            "class": "A", "vectorizer": "text2vec-transformers", "multiTenancyConfig": {"enabled": has_tenants},
            "properties": [{"name": "title", "dataType": ["text"]}, {"name": "owner", "dataType": ["text"]}],
        });
        Collection::of_json(class, "a test").expect("a class")
    }

    fn made_of(properties: Value, options: &Options, has_tenants: bool) -> Result<Object, String> {
        let properties = properties.as_object().expect("an object").clone();
        made(
            Row { number: 7, id: None, tenant: None, properties, bytes: 1, kept: Kept::Properties },
            options,
            &collection(has_tenants),
        )
    }

    #[test]
    fn ids_and_tenants_may_stand_among_the_properties() {
        let by_row = options(IdRule::Position, TenantRule::Row);
        let own = "4e6b37f6-1d0c-4d2e-9a52-9c5b6a0c9e11";
        let object = made_of(json!({"id": own, "tenant": "t", "title": "a"}), &by_row, true).expect("an object");
        assert_eq!((&*object.id, &*object.tenant, &*object.json), (own, "t", "{\"title\":\"a\"}"));
        let by_key = options(IdRule::Property("key".into()), TenantRule::Property("owner".into()));
        let object = made_of(json!({"key": 5, "owner": "o", "title": "a"}), &by_key, true).expect("an object");
        assert_eq!(
            (&*object.tenant, &*object.json),
            ("o", "{\"owner\":\"o\",\"title\":\"a\"}"),
            "owner is a property too"
        );
        for (properties, has_tenants, said) in [
            (json!({"title": "a"}), true, "--tenant"),
            (json!({"tenant": "t"}), false, "no property 'tenant'"),
            (json!({"id": 7}), false, "its id is 7"),
            (json!({"id": "seven"}), false, "no UUID"),
            (json!({"titel": "a"}), false, "no property 'titel'"),
            (json!({"class": "A", "id": own, "properties": {"title": "a"}, "vector": [1]}), false, "jq -c"),
        ] {
            let error = made_of(properties, &by_row, has_tenants).expect_err("refused");
            assert!(error.contains(said), "{error}");
        }
        let named = options(IdRule::Position, TenantRule::Named("t".into()));
        assert!(made_of(json!({"title": "a"}), &named, false).expect_err("refused").contains("no tenants"));
    }

    #[test]
    fn what_is_kept_of_a_row_is_all_that_it_says_or_nothing() {
        let mut by_row = options(IdRule::Position, TenantRule::Row);
        by_row.failed = Some("failed.jsonl".into());
        let row = |kept, properties: Value| {
            let properties = properties.as_object().expect("an object").clone();
            Row { number: 7, id: None, tenant: None, properties, bytes: 1, kept }
        };
        let long = "{\"properties\":{\"title\": 99999999999999999999999999}}";
        let object_of = |kept| object(row(kept, json!({"title": 1e26})), &by_row, &collection(false));
        let made = object_of(Kept::Line(long.into())).expect("an object");
        let kept = made.failed("x").line.expect("a line");
        assert_eq!(
            kept,
            format!("{{\"properties\":{{\"title\": 99999999999999999999999999}},\"id\":\"{}\"}}", made.id)
        );
        assert_eq!(object_of(Kept::Nothing).expect("an object").failed("x").line, None);
        let made = object_of(Kept::Properties).expect("an object");
        assert_eq!(made.failed("x").line.expect("a line"), made.failed("y").line.expect("a line"));
        let failed = |kept| object(row(kept, json!({"titel": "a"})), &by_row, &collection(false)).expect_err("refused");
        assert_eq!(failed(Kept::Line(long.into())).line.as_deref(), Some(long), "it is as it was");
        assert_eq!(failed(Kept::Properties).line.as_deref(), Some("{\"properties\":{\"titel\":\"a\"}}"));
        assert_eq!(failed(Kept::Nothing).line, None);
        let own = "{\"properties\":{\"id\":\"4e6b37f6-1d0c-4d2e-9a52-9c5b6a0c9e11\"}}";
        let value: Value = serde_json::from_str(own).expect("JSON");
        let made = object(row(Kept::Line(own.into()), value["properties"].clone()), &by_row, &collection(false));
        assert_eq!(made.expect("an object").failed("x").line.as_deref(), Some(own), "its id stays where it is");
    }

    /// Rows that are there already.
    struct Listed(Vec<Row>, u64);

    impl Rows for Listed {
        fn next(&mut self) -> Result<Option<Next>> {
            self.1 += 1;
            Ok((!self.0.is_empty()).then(|| Next::Row(self.0.remove(0))))
        }

        fn position(&self) -> u64 {
            self.1
        }
    }

    #[tokio::test]
    async fn chunks_are_small_and_say_where_they_end() {
        let row = |number, bytes| {
            let properties = json!({"title": "a"}).as_object().expect("an object").clone();
            Row { number, id: None, tenant: None, properties, bytes, kept: Kept::Properties }
        };
        let mut rows = Listed(vec![row(1, 1), row(2, 1), row(3, 200), row(5, 1), row(8, 1)], 0);
        let (send, mut chunks) = tokio::sync::mpsc::channel(10);
        let options = options(IdRule::Position, TenantRule::Row);
        let collection = collection(false);
        tokio::task::spawn_blocking(move || read(&mut rows, 1, &options, &collection, &send)).await.expect("ended");
        let mut seen = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.expect("a chunk");
            seen.push((chunk.objects.iter().map(|object| object.number).collect::<Vec<_>>(), chunk.rows_to_here));
        }
        assert_eq!(seen, [(vec![2, 3], 3), (vec![5, 8], 8)]);
    }
}
