// Package sidecar is Weaviate's module text2vec-transformers over text2vec-sidecar's gRPC service instead of the
// reference container's HTTP API: the same settings, texts, vectors and error texts, but a batch of objects is one call.
//
// The service does the module's work (service Module in text2vec.proto); here Weaviate's Go types are carried over.
package sidecar

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"time"

	"github.com/pkg/errors"
	"github.com/sirupsen/logrus"
	entcfg "github.com/weaviate/weaviate/entities/config"
	"github.com/weaviate/weaviate/entities/models"
	"github.com/weaviate/weaviate/entities/modulecapabilities"
	"github.com/weaviate/weaviate/entities/moduletools"
	"github.com/weaviate/weaviate/entities/schema"
	"github.com/weaviate/weaviate/usecases/modulecomponents/additional"
	"github.com/weaviate/weaviate/usecases/modulecomponents/arguments/nearText"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	pb "text2vec-sidecar/deploy/weaviate-module/text2vecv1"
)

const (
	// Name is the module's name in ENABLE_MODULES and in classes: it takes the place of Weaviate's own.
	Name = "text2vec-transformers"
	// AddressVariable names the environment variable with the sidecar's host:port.
	AddressVariable = "T2V_GRPC_ADDRESS"

	// The most that goes into one VectorizeBatch call; larger batches are streamed. Both are well below what the sidecar
	// accepts by default (--max-texts, --max-body-bytes).
	defaultUnaryObjects = 1000
	unaryBytes          = 8 << 20
)

// Module implements Weaviate's modulecapabilities. Make it with [New].
type Module struct {
	unaryObjects int
	timeout      time.Duration // for one object or query, as MODULES_CLIENT_TIMEOUT; <= 0: none
	logger       logrus.FieldLogger
	connection   *grpc.ClientConn
	client       pb.ModuleClient
	nearText     modulecapabilities.TextTransform
}

// New gives a module that is ready for Init.
func New() *Module { return &Module{unaryObjects: defaultUnaryObjects} }

// Name implements modulecapabilities.Module.
func (m *Module) Name() string { return Name }

// Type implements modulecapabilities.Module.
func (m *Module) Type() modulecapabilities.ModuleType { return modulecapabilities.Text2Vec }

// Init connects to the sidecar and, unless TRANSFORMERS_WAIT_FOR_STARTUP says otherwise, waits until it is ready.
func (m *Module) Init(ctx context.Context, params moduletools.ModuleInitParams) (err error) {
	m.logger, m.timeout = params.GetLogger(), params.GetConfig().ModuleHttpClientTimeout
	address := os.Getenv(AddressVariable)
	if address == "" {
		return errors.Errorf("init vectorizer: required variable %s is not set", AddressVariable)
	}
	m.connection, err = grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return errors.Wrap(err, "init vectorizer")
	}
	m.client = pb.NewModuleClient(m.connection)
	if wait := os.Getenv("TRANSFORMERS_WAIT_FOR_STARTUP"); wait == "" || entcfg.Enabled(wait) {
		return errors.Wrap(m.waitForStartup(ctx), "init vectorizer: init remote vectorizer")
	}
	return nil
}

func (m *Module) waitForStartup(ctx context.Context) error {
	health := grpc_health_v1.NewHealthClient(m.connection)
	service := &grpc_health_v1.HealthCheckRequest{Service: pb.Module_ServiceDesc.ServiceName}
	for {
		answer, err := health.Check(ctx, service)
		if err == nil && answer.Status == grpc_health_v1.HealthCheckResponse_SERVING {
			return nil
		}
		m.logger.WithField("action", "transformer_remote_wait_for_startup").WithField("status", answer.GetStatus()).
			WithError(err).Warn("text2vec-sidecar not ready")
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			if err == nil {
				err = errors.Errorf("not ready: %s", answer.Status)
			}
			return errors.Wrap(err, "init context expired before remote was ready")
		}
	}
}

// Close implements modulecapabilities.ModuleWithClose.
func (m *Module) Close() error {
	if m.connection == nil {
		return nil
	}
	return m.connection.Close()
}

// InitExtension picks up another module's nearText transformer (autocorrect), as the original does.
func (m *Module) InitExtension(modules []modulecapabilities.Module) error {
	for _, module := range modules {
		if other, ok := module.(modulecapabilities.TextTransformers); ok && module.Name() != m.Name() {
			if transformers := other.TextTransformers(); transformers != nil {
				m.nearText = transformers["nearText"]
			}
		}
	}
	return nil
}

// Arguments implements modulecapabilities.GraphQLArguments: nearText, by Weaviate's own code.
func (m *Module) Arguments() map[string]modulecapabilities.GraphQLArgument {
	return nearText.New(m.nearText).Arguments()
}

// AdditionalProperties offers featureProjection, by Weaviate's own code.
func (m *Module) AdditionalProperties() map[string]modulecapabilities.AdditionalProperty {
	return additional.NewText2VecProvider().AdditionalProperties()
}

// MetaInfo is what the sidecar's GET /meta answers.
func (m *Module) MetaInfo() (map[string]any, error) {
	ctx, cancel := m.limit(context.Background(), 1)
	defer cancel()
	answer, err := m.client.MetaInfo(ctx, &pb.MetaInfoRequest{})
	if err != nil {
		return nil, queryError(err, "")
	}
	return answer.Meta.AsMap(), nil
}

// ClassConfigDefaults are the settings that Weaviate stores with a class. The interface has no place for an error: when
// the sidecar cannot be asked there are none, which is logged and leaves the same defaults to be applied when the class
// is read.
func (m *Module) ClassConfigDefaults() map[string]any {
	ctx, cancel := m.limit(context.Background(), 1)
	defer cancel()
	answer, err := m.client.ClassConfigDefaults(ctx, &pb.ClassConfigDefaultsRequest{})
	if err != nil {
		m.logger.WithError(err).Error("text2vec-sidecar: class config defaults")
		return nil
	}
	return answer.Defaults.AsMap()
}

// PropertyConfigDefaults is as [Module.ClassConfigDefaults], for a property. The data type may be nil.
func (m *Module) PropertyConfigDefaults(dataType *schema.DataType) map[string]any {
	ctx, cancel := m.limit(context.Background(), 1)
	defer cancel()
	request := &pb.PropertyConfigDefaultsRequest{}
	if dataType != nil {
		request.DataType = dataType.String()
	}
	answer, err := m.client.PropertyConfigDefaults(ctx, request)
	if err != nil {
		m.logger.WithError(err).Error("text2vec-sidecar: property config defaults")
		return nil
	}
	return answer.Defaults.AsMap()
}

// ValidateClass implements modulecapabilities.ClassConfigurator. The sidecar's warnings, which Weaviate does not know,
// are logged.
func (m *Module) ValidateClass(ctx context.Context, class *models.Class, cfg moduletools.ClassConfig) error {
	request := &pb.ValidateClassRequest{Config: &pb.ClassConfig{}, AutoSchema: new(bool)}
	if cfg != nil {
		classJSON, err := json.Marshal(class)
		if err != nil {
			return errors.Wrap(err, "marshal class")
		}
		request.Config = &pb.ClassConfig{ClassJson: string(classJSON), TargetVector: cfg.TargetVector(), Tenant: cfg.Tenant()}
		// As Weaviate's BaseClassSettings: off when it is not known.
		if config := cfg.Config(); config != nil && config.AutoSchema.Enabled != nil {
			*request.AutoSchema = config.AutoSchema.Enabled.Get()
		}
	}
	ctx, cancel := m.limit(ctx, 1)
	defer cancel()
	answer, err := m.client.ValidateClass(ctx, request)
	if err != nil {
		return queryError(err, "validate class: ")
	}
	for _, warning := range answer.Warnings {
		m.logger.WithField("class", class.Class).Warn(warning)
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

// VectorizableProperties is constant in the original and in the service. Weaviate asks for each object that it may have
// to vectorize again, so it is answered here.
func (m *Module) VectorizableProperties(moduletools.ClassConfig) (bool, []string, error) {
	return true, nil, nil
}

// VectorizeInput is the vector of one search text.
func (m *Module) VectorizeInput(ctx context.Context, input string, cfg moduletools.ClassConfig) ([]float32, error) {
	config, err := classConfig("", nil, cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := m.limit(ctx, 1)
	defer cancel()
	answer, err := m.client.VectorizeInput(ctx, &pb.VectorizeInputRequest{Input: input, Config: config})
	if err != nil {
		return nil, queryError(err, embedding)
	}
	return notNil(answer.Vector.GetValues()), nil
}

// limit gives a call as much time as the original would take at most for so many requests, one after the other.
func (m *Module) limit(ctx context.Context, requests int) (context.Context, context.CancelFunc) {
	if m.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, m.timeout*time.Duration(max(requests, 1)))
}

// notNil: a query without concepts has an empty vector in the original, which is not the same as none.
func notNil(vector []float32) []float32 {
	if vector == nil {
		return []float32{}
	}
	return vector
}

var (
	_ modulecapabilities.ModuleWithClose            = New()
	_ modulecapabilities.ModuleExtension            = New()
	_ modulecapabilities.Vectorizer[[]float32]      = New()
	_ modulecapabilities.InputVectorizer[[]float32] = New()
	_ modulecapabilities.ClassConfigurator          = New()
	_ modulecapabilities.MetaProvider               = New()
	_ modulecapabilities.GraphQLArguments           = New()
	_ modulecapabilities.Searcher[[]float32]        = New()
	_ modulecapabilities.AdditionalProperties       = New()
)
