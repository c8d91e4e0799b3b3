//! Schemas that no derive makes: a value that may be one of several things, and objects made of several.

use utoipa::openapi::schema::{AdditionalProperties, AnyOfBuilder, Object, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// A schema of what may be any of these. Derived enums would say that it is exactly one, which an empty list is not.
pub(super) fn any_of(about: &str, members: impl IntoIterator<Item = RefOr<Schema>>) -> RefOr<Schema> {
    let any = members.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item);
    RefOr::T(Schema::AnyOf(any.description(Some(about)).build()))
}

/// A reference to a type's schema.
pub(super) fn of<T: ToSchema>() -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(T::name()))
}

/// A type's schema and those that it names, for a schema that is made by hand.
pub(super) fn named<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

/// The object that a type is described by; an empty one, if it is none.
pub(super) fn object<T: PartialSchema>() -> Object {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object,
        _ => Object::default(),
    }
}

/// One object with the properties of all of these, and no others.
pub(super) fn merged(about: &str, objects: impl IntoIterator<Item = Object>) -> Object {
    let mut whole = Object::default();
    for object in objects {
        whole.properties.extend(object.properties);
        whole.required.extend(object.required);
    }
    whole.description = Some(about.to_owned());
    whole.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    whole
}
