package sidecar

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/sirupsen/logrus"
	"github.com/weaviate/weaviate/entities/additional"
	"github.com/weaviate/weaviate/entities/models"
	"github.com/weaviate/weaviate/entities/moduletools"
	"github.com/weaviate/weaviate/entities/schema"
	original "github.com/weaviate/weaviate/modules/text2vec-transformers"
	"github.com/weaviate/weaviate/usecases/config"
	"github.com/weaviate/weaviate/usecases/config/runtime"
	"github.com/weaviate/weaviate/usecases/modules"
	"github.com/weaviate/weaviate/usecases/objects/validation"
	"google.golang.org/grpc"

	pb "text2vec-sidecar/deploy/weaviate-module/text2vecv1"
)

const (
	// maxTextBytes is the sidecar's --max-text-bytes here: low, so that single objects of a batch fail.
	maxTextBytes = 3000

	classCount      = 30
	objectsPerClass = 12
	// Fewer objects go through the second run, with lower-casing on.
	lowercasedObjectsPerClass = 4

	requiredClasses = 20
	requiredObjects = 300
)

// figures are what a run of the test has seen. TestDifferential fails when they are too low.
type figures struct {
	classes, objects, refused, capitals, vectors, skipped, failed, mixed, streamed, queries int
	comparisons, differences                                                                int
	dataTypes                                                                               map[string]int
}

var seen = figures{dataTypes: map[string]int{}}

func TestDifferential(t *testing.T) {
	t.Run("as written", func(t *testing.T) {
		both := start(t, "")
		t.Run("defaults and meta", both.defaultsAndMeta)
		t.Run("class validation", both.classValidation)
		t.Run("objects", func(t *testing.T) { both.objects(t, 1, objectsPerClass) })
		t.Run("go types beyond validation", both.otherGoTypes)
		t.Run("queries", both.queries)
	})
	t.Run("lower-cased", func(t *testing.T) {
		both := start(t, "on")
		t.Run("objects", func(t *testing.T) { both.objects(t, 2, lowercasedObjectsPerClass) })
	})
	fmt.Printf("classes %d, objects %d (and %d refused by validation), of these vectorized %d, skipped or without text %d, failed %d, "+
		"streamed %d, in batches with vectors and errors %d; queries %d; comparisons %d; differences %d\n", seen.classes, seen.objects, seen.refused,
		seen.vectors, seen.skipped, seen.failed, seen.streamed, seen.mixed, seen.queries, seen.comparisons, seen.differences)
	fmt.Printf("values by data type: %v\n", seen.dataTypes)
	if seen.classes < requiredClasses || seen.objects < requiredObjects {
		t.Errorf("too few: %d classes of %d, %d objects of %d", seen.classes, requiredClasses, seen.objects, requiredObjects)
	}
	if seen.vectors < requiredObjects || seen.refused == 0 || seen.skipped == 0 || seen.mixed == 0 || seen.capitals == 0 || seen.streamed == 0 {
		t.Errorf("an outcome was not met often enough: %+v", seen)
	}
	for _, dataType := range dataTypes {
		if seen.dataTypes[dataType] < 5 {
			t.Errorf("only %d values of type %s", seen.dataTypes[dataType], dataType)
		}
	}
}

// pair is Weaviate's module and ours, before the same sidecar.
type pair struct {
	original  *original.TransformersModule
	ours      *Module
	client    pb.ModuleClient // the service itself, as a loader uses it
	http      *recorder       // the texts that the original sends
	grpc      *recordingClient
	config    *config.Config
	lowercase bool
	self      string // the URL at which the sidecar knows itself
}

// start runs a sidecar and both modules. lowercase is LOWERCASE_VECTORIZATION_INPUT, for the sidecar and this process.
func start(t *testing.T, lowercase string) *pair {
	t.Helper()
	t.Setenv("LOWERCASE_VECTORIZATION_INPUT", lowercase)
	proxy := &recorder{}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	address := startSidecar(t, "LOWERCASE_VECTORIZATION_INPUT="+lowercase, "T2V_SELF_URLS="+server.URL,
		"T2V_CACHE_BYTES=0", // each way makes its own vectors
		fmt.Sprintf("T2V_MAX_TEXT_BYTES=%d", maxTextBytes))
	proxy.to = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})

	autoSchema := runtime.NewDynamicValue(true)
	both := &pair{
		original: original.New(), ours: New(), http: proxy, lowercase: lowercase != "", self: server.URL,
		config: &config.Config{ModuleHttpClientTimeout: time.Minute, AutoSchema: config.AutoSchema{Enabled: autoSchema}},
	}
	t.Setenv("TRANSFORMERS_INFERENCE_API", server.URL)
	t.Setenv("TRANSFORMERS_WAIT_FOR_STARTUP", "")
	t.Setenv(AddressVariable, address)
	params := moduletools.NewInitParams(nil, nil, both.config, silent(), nil)
	for _, module := range []interface {
		Init(context.Context, moduletools.ModuleInitParams) error
	}{both.original, both.ours} {
		if err := module.Init(t.Context(), params); err != nil {
			t.Fatal(err)
		}
	}
	if err := both.original.InitExtension(nil); err != nil {
		t.Fatal(err)
	}
	if err := both.ours.InitExtension(nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = both.ours.Close() })
	both.client = both.ours.client
	both.grpc = &recordingClient{ModuleClient: both.ours.client}
	both.ours.client = both.grpc
	return both
}

// startSidecar starts the binary on a free port of the loopback, waits until it is ready and ends it with the test.
func startSidecar(t *testing.T, environment ...string) string {
	t.Helper()
	model := fromEnv("T2V_TEST_MODEL", "../../models/all-MiniLM-L6-v2")
	if _, err := os.Stat(model); err != nil {
		t.Fatalf("%v: get the model first (make model), or set T2V_TEST_MODEL", err)
	}
	return startSidecarOf(t, []string{"--model", model}, environment...)
}

// startSidecarOf starts the binary with flags of its own.
func startSidecarOf(t *testing.T, flags []string, environment ...string) string {
	t.Helper()
	binary := fromEnv("T2V_BIN", "../../target/debug/text2vec-sidecar")
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: build the sidecar first (cargo build), or set T2V_BIN", err)
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	sidecar := exec.Command(binary, append(flags, "--listen", address)...)
	sidecar.Env = append(environment, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"))
	var log bytes.Buffer
	sidecar.Stderr, sidecar.Stdout = &log, &log
	if err := sidecar.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sidecar.Wait() }()
	t.Cleanup(func() {
		_ = sidecar.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the sidecar's log:\n%s", log.String())
		}
	})
	for until := time.Now().Add(2 * time.Minute); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the sidecar ended: %v\n%s", err, log.String())
		default:
		}
		if answer, err := http.Get("http://" + address + "/.well-known/ready"); err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode < 300 {
				return address
			}
		}
	}
	t.Fatalf("the sidecar did not get ready within two minutes\n%s", log.String())
	return ""
}

// testSeed is T2V_TEST_SEED, for other classes and objects than the usual ones.
func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed, err := strconv.ParseUint(fromEnv("T2V_TEST_SEED", "0"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

func fromEnv(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func silent() *logrus.Logger {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logger
}

// recorder passes HTTP on to the sidecar and keeps the texts. The vectors alone would not show every difference between
// two texts: an uncased model does not see the case of letters.
type recorder struct {
	to    http.Handler
	lock  sync.Mutex
	texts []string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	var sent struct{ Text *string }
	if json.Unmarshal(body, &sent) == nil && sent.Text != nil {
		r.lock.Lock()
		r.texts = append(r.texts, *sent.Text)
		r.lock.Unlock()
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	r.to.ServeHTTP(w, request)
}

func (r *recorder) take() []string {
	r.lock.Lock()
	defer r.lock.Unlock()
	texts := r.texts
	r.texts = nil
	return texts
}

// recordingClient asks for the texts that the service put together, and keeps them.
type recordingClient struct {
	pb.ModuleClient
	texts   []string
	streams int
}

func (c *recordingClient) VectorizeBatch(ctx context.Context, request *pb.VectorizeBatchRequest,
	options ...grpc.CallOption,
) (*pb.VectorizeBatchResponse, error) {
	request.ReturnText = true
	answer, err := c.ModuleClient.VectorizeBatch(ctx, request, options...)
	c.texts = textsOf(answer.GetResults())
	return answer, err
}

func (c *recordingClient) VectorizeBatchStream(ctx context.Context, options ...grpc.CallOption,
) (grpc.BidiStreamingClient[pb.VectorizeBatchStreamRequest, pb.VectorizeBatchStreamResponse], error) {
	c.streams++
	return c.ModuleClient.VectorizeBatchStream(ctx, options...)
}

// textsOf leaves out what was skipped, as the original sends nothing for it.
func textsOf(results []*pb.ObjectResult) []string {
	var texts []string
	for _, result := range results {
		if !result.GetSkipped() {
			texts = append(texts, result.GetText())
		}
	}
	return texts
}

// same counts a comparison and reports a difference.
func same(t *testing.T, what string, expected, got any) {
	t.Helper()
	seen.comparisons++
	if reflect.DeepEqual(expected, got) {
		return
	}
	seen.differences++
	t.Errorf("%s\noriginal: %s\nours:     %s", what, short(expected), short(got))
}

func short(value any) string {
	text := []rune(fmt.Sprintf("%#v", value))
	if len(text) > 1500 {
		text = append(text[:1500], '…')
	}
	return string(text)
}

// bits of a vector: nil and empty differ, NaN equals itself.
func bits(vector []float32) []uint32 {
	if vector == nil {
		return nil
	}
	bits := make([]uint32, len(vector))
	for i, value := range vector {
		bits[i] = math.Float32bits(value)
	}
	return bits
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// fromREST reads JSON as Weaviate's REST layer does: numbers keep their written form.
func fromREST[T any](t *testing.T, text []byte) T {
	t.Helper()
	var value T
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return value
}

// stored is the class as Weaviate has it in memory afterwards: written as JSON and read again.
func stored(t *testing.T, class *models.Class) *models.Class {
	t.Helper()
	var again models.Class
	if err := json.Unmarshal(mustJSON(class), &again); err != nil {
		t.Fatal(err)
	}
	return &again
}

// create takes a class through class creation with one of the modules: defaults, then validation.
func (p *pair) create(t *testing.T, classJSON []byte, ours bool) (*models.Class, error) {
	t.Helper()
	provider := modules.NewProvider(silent(), *p.config)
	if ours {
		provider.Register(p.ours)
	} else {
		provider.Register(p.original)
	}
	class := fromREST[models.Class](t, classJSON)
	provider.SetClassDefaults(&class)
	err := provider.ValidateClass(t.Context(), &class)
	return &class, err
}

func targets(class *models.Class) []string {
	if len(class.VectorConfig) == 0 {
		return []string{""}
	}
	var names []string
	for name := range class.VectorConfig {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (p *pair) defaultsAndMeta(t *testing.T) {
	same(t, "class defaults", p.original.ClassConfigDefaults(), p.ours.ClassConfigDefaults())
	same(t, "property defaults", p.original.PropertyConfigDefaults(nil), p.ours.PropertyConfigDefaults(nil))
	for _, dataType := range []schema.DataType{schema.DataTypeText, schema.DataTypeBlob, schema.DataTypeObjectArray} {
		same(t, "property defaults", p.original.PropertyConfigDefaults(&dataType), p.ours.PropertyConfigDefaults(&dataType))
	}
	expected, err := p.original.MetaInfo()
	if err != nil {
		t.Fatal(err)
	}
	meta, err := p.ours.MetaInfo()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "meta", expected, meta)
	text, media, err := p.original.VectorizableProperties(nil)
	oursText, oursMedia, oursErr := p.ours.VectorizableProperties(nil)
	same(t, "vectorizable properties", []any{text, media, err}, []any{oursText, oursMedia, oursErr})
	answer, err := p.client.VectorizableProperties(t.Context(), &pb.VectorizablePropertiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "vectorizable properties, by the service", []any{text, media}, []any{answer.Text, answer.Media})
	same(t, "name and type", []any{p.original.Name(), p.original.Type()}, []any{p.ours.Name(), p.ours.Type()})
}

func (p *pair) classValidation(t *testing.T) {
	blocks := []string{
		`{}`, `null`, `5`, `{"vectorizeClassName":false}`, `{"vectorizeClassName":"false"}`,
		`{"properties":[]}`, `{"properties":["title",5]}`, `{"properties":[1.50]}`, `{"properties":[true]}`,
		`{"properties":[null]}`, `{"properties":[["title"]]}`, `{"properties":[{"b":1,"a":[null,"x"]}]}`, `{"properties":"title"}`,
		`{"properties":null}`, `{"properties":1e2}`, `{"properties":{"a":1}}`, `{"properties":false}`, `{"properties":["no"]}`,
		`{"properties":["no"],"vectorizeClassName":false}`, `{"properties":["title","n"],"vectorizeClassName":false}`,
		`{"properties":["title","d","g"],"vectorizeClassName":false}`, `{"properties":[],"inferenceUrl":"x","queryInferenceUrl":"y"}`,
		`{"inferenceUrl":"x"}`, `{"inferenceUrl":"x","queryInferenceUrl":"y"}`, `{"inferenceUrl":"x","passageInferenceUrl":"y"}`,
		`{"passageInferenceUrl":"x"}`, `{"queryInferenceUrl":"y"}`, `{"passageInferenceUrl":"x","queryInferenceUrl":"y"}`,
		`{"passageInferenceUrl":" ","queryInferenceUrl":""}`, `{"passageInferenceUrl":5,"queryInferenceUrl":"y"}`,
		`{"vectorizeClassName":false,"inferenceUrl":"x","passageInferenceUrl":"y"}`, `{"dimensions":-5,"poolingStrategy":"nonsense"}`,
		`{"InferenceUrl":"x","passageInferenceurl":"y","properties ":5}`,
	}
	properties := []string{
		`[]`, `null`, `[{"name":"title","dataType":["text"]}]`, `[{"name":"title","dataType":["text[]","int"]}]`,
		`[{"name":"title","dataType":["text"],"moduleConfig":{"text2vec-transformers":{"skip":true}}}]`,
		`[{"name":"title","dataType":["string"],"moduleConfig":{"text2vec-transformers":{"skip":"true"}}}]`,
		`[{"name":"n","dataType":["int"]},{"name":"o","dataType":["object[]"],"nestedProperties":[]}]`,
		`[{"name":"b","dataType":["blob"]},{"name":"u","dataType":["uuid"]},{"name":"g","dataType":["geoCoordinates"]}]`,
		`[{"name":"d","dataType":["date[]"]},{"name":"r","dataType":["Target"]}]`,
	}
	for _, autoSchema := range []bool{true, false} {
		p.config.AutoSchema.Enabled = runtime.NewDynamicValue(autoSchema)
		for _, block := range blocks {
			for _, properties := range properties {
				for _, frame := range []string{
					`{"class":"Article","vectorizer":"text2vec-transformers","moduleConfig":{"text2vec-transformers":%s},"properties":%s}`,
					`{"class":"Article","vectorConfig":{"v":{"vectorizer":{"text2vec-transformers":%s}}},"properties":%s}`,
				} {
					text := fmt.Appendf(nil, frame, block, properties)
					expected, expectedError := p.create(t, text, false)
					class, err := p.create(t, text, true)
					same(t, "class creation of "+string(text), message(expectedError), message(err))
					same(t, "stored form of "+string(text), string(mustJSON(expected)), string(mustJSON(class)))
				}
			}
		}
	}
	class := fromREST[models.Class](t, []byte(`{"class":"Article","properties":[{"name":"p"}]}`))
	cfg := modules.NewClassBasedModuleConfig(&class, Name, "", "", nil)
	same(t, "no config", message(p.original.ValidateClass(t.Context(), &class, nil)), message(p.ours.ValidateClass(t.Context(), &class, nil)))
	same(t, "no server config", message(p.original.ValidateClass(t.Context(), &class, cfg)), message(p.ours.ValidateClass(t.Context(), &class, cfg)))
	class.ModuleConfig = dict{Name: dict{"vectorizeClassName": false}}
	same(t, "no data type", message(p.original.ValidateClass(t.Context(), &class, cfg)), message(p.ours.ValidateClass(t.Context(), &class, cfg)))
	p.config.AutoSchema.Enabled = runtime.NewDynamicValue(true)
}

func (p *pair) objects(t *testing.T, seed uint64, objects int) {
	c := newCases(seed + testSeed(t))
	for number := range classCount {
		written := c.class(number, p.self)
		classJSON := mustJSON(written)
		class, err := p.create(t, classJSON, false)
		if err != nil {
			t.Fatalf("a generated class is not valid: %v: %s", err, classJSON)
		}
		oursClass, oursErr := p.create(t, classJSON, true)
		same(t, "class creation", message(err), message(oursErr))
		same(t, "stored class", string(mustJSON(class)), string(mustJSON(oursClass)))
		class = stored(t, class)
		seen.classes++

		var accepted []*models.Object
		var acceptedJSON [][]byte
		for range objects {
			properties := mustJSON(c.object(written))
			object, err := validated(t, class, properties)
			if err != nil {
				seen.refused++
				p.refused(t, class, classJSON, properties, err)
				continue
			}
			accepted = append(accepted, object)
			acceptedJSON = append(acceptedJSON, properties)
			seen.objects++
			for name := range object.Properties.(dict) {
				property, err := schema.GetPropertyByName(class, name)
				if err != nil {
					t.Fatal(err)
				}
				seen.dataTypes[property.DataType[0]]++
			}
		}
		for _, target := range targets(class) {
			cfg := modules.NewClassBasedModuleConfig(class, Name, "tenant", target, p.config)
			p.batch(t, c, cfg, accepted, &pb.ClassConfig{ClassJson: string(classJSON), TargetVector: target}, acceptedJSON)
		}
	}
}

// validated takes an object through Weaviate's validation, which gives the values their Go types.
func validated(t *testing.T, class *models.Class, properties []byte) (*models.Object, error) {
	t.Helper()
	exists := func(context.Context, string, strfmt.UUID, *additional.ReplicationProperties, string) (bool, error) {
		return true, nil
	}
	object := &models.Object{Class: class.Class, Properties: any(fromREST[dict](t, properties))}
	validator := validation.New(exists, &config.WeaviateConfig{Config: config.Config{}}, nil, nil, false)
	return object, validator.Object(t.Context(), class, object, nil)
}

// refused: the service must refuse what validation refuses, in its words. (Our module never sees such an object.)
func (p *pair) refused(t *testing.T, class *models.Class, classJSON, properties []byte, expected error) {
	t.Helper()
	answer, err := p.client.VectorizeObject(t.Context(), &pb.VectorizeObjectRequest{
		Object: &pb.Object{Properties: &pb.Object_Json{Json: string(properties)}},
		Config: &pb.ClassConfig{ClassJson: string(classJSON), TargetVector: targets(class)[0]},
	})
	if err != nil {
		t.Fatalf("%v: %s", err, properties)
	}
	same(t, fmt.Sprintf("refusal of %s", properties), expected.Error(), answer.Result.GetError().GetMessage())
}

// batch compares the original's answers to a batch with ours in one call, in a stream and one by one, and with the
// service's own for the JSON that a user would have sent to Weaviate.
func (p *pair) batch(t *testing.T, c cases, cfg moduletools.ClassConfig, objects []*models.Object,
	rest *pb.ClassConfig, written [][]byte,
) {
	t.Helper()
	skip := make([]bool, len(objects))
	for i := range skip {
		skip[i] = c.chance(10)
	}
	p.http.take()
	vectors, _, errs := p.original.VectorizeBatch(t.Context(), objects, skip, cfg)
	texts := p.http.take()
	for i := range objects {
		switch {
		case errs[i] != nil:
			seen.failed++
		case vectors[i] != nil:
			seen.vectors++
		default:
			seen.skipped++
		}
	}
	if len(errs) > 0 && slices.ContainsFunc(vectors, func(vector []float32) bool { return vector != nil }) {
		seen.mixed += len(objects)
	}
	for _, text := range texts {
		if text != strings.ToLower(text) {
			if p.lowercase {
				t.Errorf("the original does not lower-case: %q", text)
			}
			seen.capitals++
		}
	}
	of := func(i int) string {
		return fmt.Sprintf("object %s of class %s vector %q", written[i], rest.ClassJson, rest.TargetVector)
	}
	compare := func(how string, ours [][]float32, oursErrs map[int]error) {
		t.Helper()
		same(t, how+": results", len(vectors), len(ours))
		for i := range objects {
			same(t, how+": error of "+of(i), message(errs[i]), message(oursErrs[i]))
			same(t, how+": vector of "+of(i), bits(vectors[i]), bits(ours[i]))
		}
	}

	p.grpc.texts = nil
	ours, _, oursErrs := p.ours.VectorizeBatch(t.Context(), objects, skip, cfg)
	compare("batch", ours, oursErrs)
	same(t, "texts of class "+rest.ClassJson, texts, p.grpc.texts)

	p.ours.unaryObjects = 0
	before := p.grpc.streams
	ours, _, oursErrs = p.ours.VectorizeBatch(t.Context(), objects, skip, cfg)
	if seen.streamed += len(objects); p.grpc.streams == before && slices.Contains(skip, false) {
		t.Error("the batch was not streamed")
	}
	p.ours.unaryObjects = defaultUnaryObjects
	compare("stream", ours, oursErrs)

	for i, object := range objects {
		if !skip[i] && c.chance(25) {
			vector, _, err := p.ours.VectorizeObject(t.Context(), object, cfg)
			same(t, "single: error of "+of(i), message(errs[i]), message(err))
			same(t, "single: vector of "+of(i), bits(vectors[i]), bits(vector))
		}
	}

	request := &pb.VectorizeBatchRequest{Skip: skip, Config: rest, ReturnText: true}
	for _, properties := range written {
		request.Objects = append(request.Objects, &pb.Object{Properties: &pb.Object_Json{Json: string(properties)}})
	}
	answer, err := p.client.VectorizeBatch(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "as users wrote it: texts of class "+rest.ClassJson, texts, textsOf(answer.Results))
	ours, oursErrs = make([][]float32, len(objects)), map[int]error{}
	for i, result := range answer.Results {
		ours[i] = result.GetVector().GetValues()
		if failed := result.GetError(); failed != nil {
			oursErrs[i] = objectError(failed.Code, failed.Message)
		}
	}
	compare("as users wrote it", ours, oursErrs)
}

// otherGoTypes: the original also renders types that validation does not leave in an object, and an object that is
// merged with its stored form (PATCH) has strings where its class has dates.
func (p *pair) otherGoTypes(t *testing.T) {
	classJSON := []byte(`{"class":"Article","vectorConfig":{
		"all":{"vectorizer":{"text2vec-transformers":{"properties":["p","q"],"vectorizeClassName":false}}},
		"texts":{"vectorizer":{"text2vec-transformers":{}}}},
		"properties":[{"name":"p","dataType":["date"],"moduleConfig":{"text2vec-transformers":{"vectorizePropertyName":true}}},
		{"name":"q","dataType":["int"]}]}`)
	class := stored(t, func() *models.Class { class := fromREST[models.Class](t, classJSON); return &class }())
	values := []any{
		nil, 5, int16(-5), int32(7), int64(1234567), float32(0.1), float32(1e7), json.Number("1.50"), json.Number("1E3"),
		[]int{1, 1000000}, []int64{-1, 1234567}, []any{}, []any{"a", "b"}, []any{1.5, 1e6, nil, true}, []any{[]any{"a", 2.0}},
		[]any{map[string]any{"a": 1.0, "b": nil}}, []map[string]any{{"a": "x"}, {"b": []any{}}}, []map[string]any{},
		map[string]any{}, map[string]any{"b": 1e6, "a": []any{"x"}, "<": []any{map[string]any{"z": -0.0}}, "n": []any{1.0, 2.5}},
		"2020-01-02T03:04:05.678+02:00", []string{"4e5cd755-4f43-44c5-b23c-0c7d6f6c21e6"}, []string{}, 1e6, math.Copysign(0, -1),
		9223372036854775808.0, []bool{true, false}, true, int8(5), struct{ A int }{5}, []time.Time{time.Unix(0, 0)},
		time.Date(2020, 1, 2, 3, 4, 5, 6, time.FixedZone("", -3600)), &models.GeoCoordinates{}, models.MultipleRef{},
	}
	var objects []*models.Object
	for _, value := range values {
		objects = append(objects, &models.Object{Class: "Article", Properties: map[string]any{"p": value}})
	}
	objects = append(objects,
		&models.Object{Class: "Article"},
		&models.Object{Class: "Article", Properties: map[string]any{"p": values, "q": "text"}})
	for _, target := range targets(class) {
		cfg := modules.NewClassBasedModuleConfig(class, Name, "", target, p.config)
		p.http.take()
		vectors, _, errs := p.original.VectorizeBatch(t.Context(), objects, make([]bool, len(objects)), cfg)
		texts := p.http.take()
		// In one batch, where most are alone because of their types, and each for itself.
		ours, _, oursErrs := p.ours.VectorizeBatch(t.Context(), objects, make([]bool, len(objects)), cfg)
		var oursTexts []string
		for i, object := range objects {
			what := fmt.Sprintf("%s: %#v", target, object.Properties)
			same(t, "batch, error of "+what, message(errs[i]), message(oursErrs[i]))
			same(t, "batch, vector of "+what, bits(vectors[i]), bits(ours[i]))
			p.grpc.texts = nil
			vector, _, err := p.ours.VectorizeObject(t.Context(), object, cfg)
			same(t, "error of "+what, message(errs[i]), message(err))
			same(t, "vector of "+what, bits(vectors[i]), bits(vector))
			oursTexts = append(oursTexts, p.grpc.texts...)
		}
		same(t, "texts of vector "+target, texts, oursTexts)
	}
}
