//! Errors as gRPC has them.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::error::Error;
use crate::proto;

/// Metadata of a failed call, what `reason` is to a text's error.
const REASON: &str = "t2v-reason";

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let meaning = error.kind().meaning();
        let mut status = Status::new(Code::from(meaning.grpc_code), error.message());
        status.metadata_mut().insert(REASON, MetadataValue::from_static(meaning.label));
        status
    }
}

impl From<Error> for proto::Error {
    fn from(error: Error) -> proto::Error {
        let meaning = error.kind().meaning();
        proto::Error { code: meaning.grpc_code, message: error.message().to_owned(), reason: meaning.label.to_owned() }
    }
}
