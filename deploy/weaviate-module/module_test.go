package sidecar

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weaviate/weaviate/entities/models"
	"github.com/weaviate/weaviate/entities/moduletools"
	"github.com/weaviate/weaviate/usecases/config"
	"github.com/weaviate/weaviate/usecases/modulecomponents/arguments/nearText"
	"github.com/weaviate/weaviate/usecases/modules"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "text2vec-sidecar/deploy/weaviate-module/text2vecv1"
)

// service answers as a sidecar in trouble does. The healthy one is met in TestDifferential.
type service struct {
	pb.UnimplementedModuleServer
	batch  func(*pb.VectorizeBatchRequest) (*pb.VectorizeBatchResponse, error)
	stream func(grpc.BidiStreamingServer[pb.VectorizeBatchStreamRequest, pb.VectorizeBatchStreamResponse]) error
}

func (s *service) VectorizeBatch(_ context.Context, request *pb.VectorizeBatchRequest) (*pb.VectorizeBatchResponse, error) {
	return s.batch(request)
}

func (s *service) VectorizeBatchStream(
	stream grpc.BidiStreamingServer[pb.VectorizeBatchStreamRequest, pb.VectorizeBatchStreamResponse],
) error {
	return s.stream(stream)
}

func initialized(t *testing.T, ctx context.Context, address, wait string, timeout time.Duration) (*Module, error) {
	t.Helper()
	t.Setenv(AddressVariable, address)
	t.Setenv("TRANSFORMERS_WAIT_FOR_STARTUP", wait)
	module := New()
	t.Cleanup(func() { _ = module.Close() })
	configuration := &config.Config{ModuleHttpClientTimeout: timeout}
	return module, module.Init(ctx, moduletools.NewInitParams(nil, nil, configuration, silent(), nil))
}

func serving(t *testing.T, s *service) *Module {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterModuleServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	module, err := initialized(t, t.Context(), listener.Addr().String(), "false", 500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	return module
}

func twoObjects() ([]*models.Object, []bool, moduletools.ClassConfig) {
	objects := []*models.Object{
		{Class: "Article", Properties: map[string]any{"p": "one"}}, {Class: "Article", Properties: map[string]any{"p": "two"}},
	}
	return objects, make([]bool, 2), modules.NewClassBasedModuleConfig(&models.Class{Class: "Article"}, Name, "", "", nil)
}

func TestWithoutASidecar(t *testing.T) {
	if _, err := initialized(t, t.Context(), "", "", time.Second); message(err) != "init vectorizer: required variable T2V_GRPC_ADDRESS is not set" {
		t.Errorf("no address: %v", err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	const nobody = "127.0.0.1:1"
	_, err := initialized(t, soon, nobody, "", time.Second)
	if !strings.HasPrefix(message(err), "init vectorizer: init remote vectorizer: init context expired before remote was ready: ") {
		t.Errorf("nobody there: %v", err)
	}
	module, err := initialized(t, t.Context(), nobody, "no", time.Second)
	if err != nil {
		t.Fatalf("not waiting: %v", err)
	}
	objects, skip, cfg := twoObjects()
	skip[0] = true
	vectors, _, errs := module.VectorizeBatch(t.Context(), objects, skip, cfg)
	if len(vectors) != 2 || len(errs) != 1 || !strings.HasPrefix(message(errs[1]), "fail with status 503: ") {
		t.Errorf("batch: %v, %v", vectors, errs)
	}
	if _, err = module.VectorizeInput(t.Context(), "x", cfg); !strings.HasPrefix(message(err), "remote client vectorize: fail with status 503: ") {
		t.Errorf("input: %v", err)
	}
	near := &nearText.NearTextParams{Values: []string{"x"}}
	_, err = module.VectorSearches()["nearText"](t.Context(), near, "Article", nil, cfg)
	if !strings.HasPrefix(message(err), "vectorize keywords: remote client vectorize: fail with status 503: ") {
		t.Errorf("nearText: %v", err)
	}
	if _, err := module.MetaInfo(); err == nil {
		t.Error("meta without a sidecar")
	}
	if err := module.ValidateClass(t.Context(), &models.Class{}, cfg); !strings.HasPrefix(message(err), "validate class: fail with status 503: ") {
		t.Errorf("class: %v", err)
	}
	if module.ClassConfigDefaults() != nil || module.PropertyConfigDefaults(nil) != nil {
		t.Error("defaults without a sidecar")
	}
}

func TestBatchWithMissingAnswers(t *testing.T) {
	one := &pb.ObjectResult{Result: &pb.ObjectResult_Vector{Vector: &pb.Vector{Values: []float32{1}}}}
	module := serving(t, &service{
		batch: func(*pb.VectorizeBatchRequest) (*pb.VectorizeBatchResponse, error) {
			return &pb.VectorizeBatchResponse{Results: []*pb.ObjectResult{one}}, nil
		},
	})
	objects, skip, cfg := twoObjects()
	vectors, _, errs := module.VectorizeBatch(t.Context(), objects, skip, cfg)
	if len(errs) != 2 || vectors[0] != nil || message(errs[1]) != "text2vec-sidecar: 1 results for 2 objects" {
		t.Errorf("one result: %v, %v", vectors, errs)
	}
}

func TestStreamThatBreaks(t *testing.T) {
	var last func() error
	one := &pb.ObjectResult{Result: &pb.ObjectResult_Vector{Vector: &pb.Vector{Values: []float32{1}}}}
	module := serving(t, &service{
		stream: func(stream grpc.BidiStreamingServer[pb.VectorizeBatchStreamRequest, pb.VectorizeBatchStreamResponse]) error {
			if first, err := stream.Recv(); err != nil || first.GetHeader() == nil {
				return errors.New("no header")
			}
			if err := stream.Send(&pb.VectorizeBatchStreamResponse{Index: 1, Result: one}); err != nil {
				return err
			}
			return last()
		},
	})
	module.unaryObjects = 0
	for expected, end := range map[string]func() error{
		"text2vec-sidecar: the stream ended before every object had its answer": func() error { return nil },
		"fail with status 503: closing":                                         func() error { return status.Error(codes.Unavailable, "closing") },
	} {
		last = end
		objects, skip, cfg := twoObjects()
		vectors, _, errs := module.VectorizeBatch(t.Context(), objects, skip, cfg)
		if len(errs) != 1 || message(errs[0]) != expected || len(vectors[1]) != 1 || vectors[0] != nil {
			t.Errorf("%s: %v, %v", expected, vectors, errs)
		}
	}
}

func TestLimits(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	large := make([]float32, 2<<20) // 8 MiB on the wire: more than gRPC's own limit for an answer
	module := serving(t, &service{
		batch: func(request *pb.VectorizeBatchRequest) (*pb.VectorizeBatchResponse, error) {
			if len(request.Objects) == 1 {
				<-block
			}
			one := &pb.ObjectResult{Result: &pb.ObjectResult_Vector{Vector: &pb.Vector{Values: large}}}
			return &pb.VectorizeBatchResponse{Results: []*pb.ObjectResult{one, one}}, nil
		},
	})
	objects, skip, cfg := twoObjects()
	started := time.Now()
	if _, _, err := module.VectorizeObject(t.Context(), objects[0], cfg); !strings.HasPrefix(message(err), "fail with status 504: ") {
		t.Errorf("no answer in time: %v", err)
	}
	if waited := time.Since(started); waited > 5*time.Second {
		t.Errorf("waited %v instead of half a second", waited)
	}
	module.timeout = 0
	if vectors, _, errs := module.VectorizeBatch(t.Context(), objects, skip, cfg); len(errs) > 0 || len(vectors[1]) != len(large) {
		t.Errorf("large answer: %v", errs)
	}
}

func TestErrorWords(t *testing.T) {
	overloaded := "too much work is waiting: the 9 tokens of this request found no room"
	for code, expected := range map[codes.Code]int{
		codes.InvalidArgument: 400, codes.Unauthenticated: 401, codes.PermissionDenied: 403, codes.NotFound: 404,
		codes.Unimplemented: 501, codes.Unavailable: 503, codes.DeadlineExceeded: 504, codes.Internal: 500, codes.Unknown: 500,
	} {
		if got := httpStatus(code, ""); got != expected {
			t.Errorf("%s: %d instead of %d", code, got, expected)
		}
	}
	for text, expected := range map[string]string{
		"a text of 9 bytes, 5 are allowed": "fail with status 413: a text of 9 bytes, 5 are allowed",
		overloaded:                         "fail with status 429: " + overloaded,
	} {
		if got := objectError(int32(codes.ResourceExhausted), text).Error(); got != expected {
			t.Errorf("%s", got)
		}
	}
	nested := status.Error(codes.InvalidArgument, "vectorize move to: vectorize move to: remote client vectorize: remote client vectorize: x")
	expected := "vectorize move to: vectorize move to: remote client vectorize: fail with status 400: remote client vectorize: x"
	if got := queryError(nested, "prefix: ").Error(); got != expected {
		t.Errorf("%s", got)
	}
}
