//! A class that gets new properties while objects go into it: those of `--allow-new-properties`.
//!
//! They are added before any object that has them is embedded: the sidecar refuses a property that the class does not have, and
//! so does Weaviate where vectors are brought along by gRPC.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::chunk::{Failed, Object};
use crate::collection::Collection;
use crate::error::Result;
use crate::outage::Outage;
use crate::properties::new_type;
use crate::weaviate::Weaviate;

/// New properties that Weaviate refuses are remembered, so many at most.
const REMEMBERED: usize = 1000;

/// The class as it is by now.
pub(crate) struct Growing(Mutex<Class>);

struct Class {
    collection: Arc<Collection>,
    /// Properties that cannot be added, and why.
    refused: HashMap<String, String>,
}

impl Growing {
    pub(crate) fn new(collection: Collection) -> Growing {
        Growing(Mutex::new(Class { collection: Arc::new(collection), refused: HashMap::new() }))
    }

    /// The class as it is now.
    pub(crate) async fn now(&self) -> Arc<Collection> {
        self.0.lock().await.collection.clone()
    }

    /// The class with all properties of these objects; without a Weaviate it grows here alone. Objects with a property that
    /// cannot be added are taken out.
    pub(crate) async fn grow(
        &self,
        objects: &mut Vec<Object>,
        weaviate: Option<&Weaviate>,
        outage: &Outage,
    ) -> Result<(Arc<Collection>, Vec<Failed>)> {
        let mut class = self.0.lock().await;
        let new = new_properties(objects, &class);
        if !new.is_empty() {
            let grown = match weaviate {
                None => class.collection.with(&new)?,
                Some(weaviate) => {
                    let mut reasons = Vec::new();
                    for (name, data_type) in &new {
                        reasons.push(weaviate.add_property(&class.collection.name, name, data_type, outage).await?);
                    }
                    let grown = weaviate.collection_patiently(&class.collection.name, outage).await?;
                    if class.refused.len() > REMEMBERED {
                        class.refused.clear();
                    }
                    for ((name, _), reason) in new.into_iter().zip(reasons) {
                        // Another import may have added it.
                        if let (Err(reason), false) = (reason, grown.properties.contains_key(&name)) {
                            class.refused.insert(name, reason);
                        }
                    }
                    grown
                }
            };
            class.collection = Arc::new(grown);
        }
        let mut failed = Vec::new();
        objects.retain(|object| {
            let reason = object.properties.keys().find_map(|name| class.refused.get(name));
            failed.extend(reason.map(|reason| object.failed(reason)));
            reason.is_none()
        });
        Ok((class.collection.clone(), failed))
    }
}

/// Names and data types of what the class does not have; an empty list is of texts unless another object says more.
fn new_properties(objects: &[Object], class: &Class) -> Vec<(String, &'static str)> {
    let mut new: Vec<(String, Option<&'static str>)> = Vec::new();
    for (name, value) in objects.iter().flat_map(|object| &object.properties) {
        if class.collection.properties.contains_key(name) || class.refused.contains_key(name) {
            continue;
        }
        let Ok(data_type) = new_type(name, value) else { continue };
        match new.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = known.or(data_type),
            None => new.push((name.clone(), data_type)),
        }
    }
    new.into_iter().map(|(name, data_type)| (name, data_type.unwrap_or("text[]"))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::chunk::Kept;
    use crate::collection::DataType;

    fn object(properties: Value) -> Object {
        let (id, tenant, json) = (String::new(), String::new(), properties.to_string());
        let properties = properties.as_object().expect("an object").clone();
        Object { number: 1, id, tenant, json, properties, kept: Kept::Nothing }
    }

    #[tokio::test]
    async fn a_class_grows_by_what_objects_have() {
        let class = json!({"class": "A", "vectorizer": "text2vec-transformers", "properties": [{"name": "title", "dataType": ["text"]}]});
        let growing = Growing::new(Collection::of_json(class, "a test").expect("a class"));
        let outage = Outage::new("Weaviate", Duration::from_secs(1));
        let mut objects = vec![
            object(json!({"title": "a", "words": [], "tags": [], "share": 0.5})),
            object(json!({"tags": [1], "open": true, "share": "a text: the first value counts"})),
        ];
        let (grown, failed) = growing.grow(&mut objects, None, &outage).await.expect("grown");
        assert!(failed.is_empty() && objects.len() == 2);
        let list = |element| DataType::List(Box::new(element));
        for (name, data_type) in [
            ("title", DataType::Text),
            ("words", list(DataType::Text)),
            ("tags", list(DataType::Number)),
            ("share", DataType::Number),
            ("open", DataType::Boolean),
        ] {
            assert_eq!(grown.properties[name], data_type, "{name}");
        }
        assert!(grown.json.contains("\"share\""), "the sidecar is told");
        assert_eq!(growing.now().await.properties.len(), 5);
    }
}
