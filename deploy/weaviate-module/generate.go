package sidecar

// The stubs are committed: this runs only when the proto changes. It needs protoc, protoc-gen-go and
// protoc-gen-go-grpc on the PATH.
//go:generate protoc -I ../../proto --go_out=. --go-grpc_out=. --go_opt=module=text2vec-sidecar/deploy/weaviate-module --go-grpc_opt=module=text2vec-sidecar/deploy/weaviate-module --go_opt=Mtext2vec/v1/text2vec.proto=text2vec-sidecar/deploy/weaviate-module/text2vecv1 --go-grpc_opt=Mtext2vec/v1/text2vec.proto=text2vec-sidecar/deploy/weaviate-module/text2vecv1 text2vec/v1/text2vec.proto
