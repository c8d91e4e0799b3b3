//! Every gRPC service of the port.

use axum::Router;
use tonic::service::Routes;

use crate::proto;
use crate::proto::module_server::ModuleServer;
use crate::proto::reranker_server::RerankerServer;
use crate::proto::vectorizer_server::VectorizerServer;
use crate::server::health;
use crate::server::service::Service;

/// Services that `grpc.health.v1` knows by name, beside `""`.
const SERVICES: &[&str] = &["text2vec.v1.Vectorizer", "text2vec.v1.Reranker", "text2vec.v1.Module"];

/// Every gRPC route.
pub(in crate::server) async fn router(service: Service) -> Router {
    let max = service.limits.max_body_bytes;
    let health = health::grpc_health(&service.readiness, SERVICES).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The descriptors are compiled in; that they can be read is checked by every test that starts a server.
    let v1 = reflection().build_v1().expect("descriptors of this build");
    let v1alpha = reflection().build_v1alpha().expect("descriptors of this build");
    Routes::new(VectorizerServer::new(service.clone()).max_decoding_message_size(max))
        .add_service(RerankerServer::new(service.clone()).max_decoding_message_size(max))
        .add_service(ModuleServer::new(service).max_decoding_message_size(max))
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha)
        .prepare()
        .into_axum_router()
}
