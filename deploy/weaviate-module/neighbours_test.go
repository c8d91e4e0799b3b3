package sidecar

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/weaviate/weaviate/entities/models"
	"github.com/weaviate/weaviate/entities/moduletools"
	rerankerclient "github.com/weaviate/weaviate/modules/reranker-transformers/clients"
	model2vec "github.com/weaviate/weaviate/modules/text2vec-model2vec"
	"github.com/weaviate/weaviate/usecases/config"
	"github.com/weaviate/weaviate/usecases/config/runtime"
	"github.com/weaviate/weaviate/usecases/modules"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "text2vec-sidecar/deploy/weaviate-module/text2vecv1"
)

const fixtures = "../../tests/fixtures/"

// neighbours are Weaviate's own modules text2vec-model2vec and reranker-transformers, and the sidecar's services, before one
// sidecar that serves a model of each kind.
type neighbours struct {
	model2vec *model2vec.Model2VecModule
	http      *recorder // the texts that it sends
	base      string
	config    *config.Config
	module    pb.ModuleClient
	reranker  pb.RerankerClient
}

func TestNeighbours(t *testing.T) {
	n := startNeighbours(t)
	t.Run("defaults and validation", n.validation)
	t.Run("objects and queries", n.objects)
	t.Run("reranking", n.reranking)
	fmt.Printf("comparisons %d; differences %d\n", seen.comparisons, seen.differences)
}

func startNeighbours(t *testing.T) *neighbours {
	t.Helper()
	proxy := &recorder{}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	address := startSidecarOf(t, []string{
		"--model", "m2v=" + fixtures + "model2vec/wordlevel", "--model", "rank=" + fixtures + "rerankers/xlm-roberta-1",
		"--profile", "m2v=model2vec",
	}, "T2V_SELF_URLS="+server.URL, "T2V_CACHE_BYTES=0", fmt.Sprintf("T2V_MAX_TEXT_BYTES=%d", maxTextBytes))
	proxy.to = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	n := &neighbours{
		model2vec: model2vec.New(), http: proxy, base: server.URL,
		module: pb.NewModuleClient(connection), reranker: pb.NewRerankerClient(connection),
		config: &config.Config{
			ModuleHttpClientTimeout: time.Minute,
			AutoSchema:              config.AutoSchema{Enabled: runtime.NewDynamicValue(true)},
		},
	}
	t.Setenv("MODEL2VEC_INFERENCE_API", server.URL)
	t.Setenv("MODEL2VEC_WAIT_FOR_STARTUP", "")
	if err := n.model2vec.Init(t.Context(), moduletools.NewInitParams(nil, nil, n.config, silent(), nil)); err != nil {
		t.Fatal(err)
	}
	if err := n.model2vec.InitExtension(nil); err != nil {
		t.Fatal(err)
	}
	return n
}

// create takes a class through class creation: defaults, then validation.
func (n *neighbours) create(t *testing.T, classJSON []byte) (*models.Class, error) {
	t.Helper()
	provider := modules.NewProvider(silent(), *n.config)
	provider.Register(n.model2vec)
	class := fromREST[models.Class](t, classJSON)
	provider.SetClassDefaults(&class)
	return &class, provider.ValidateClass(t.Context(), &class)
}

func (n *neighbours) validation(t *testing.T) {
	name := n.model2vec.Name()
	defaults, err := n.module.ClassConfigDefaults(t.Context(), &pb.ClassConfigDefaultsRequest{ModuleName: name})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "class defaults", n.model2vec.ClassConfigDefaults(), defaults.Defaults.AsMap())
	property, err := n.module.PropertyConfigDefaults(t.Context(), &pb.PropertyConfigDefaultsRequest{ModuleName: name})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "property defaults", n.model2vec.PropertyConfigDefaults(nil), property.Defaults.AsMap())
	blocks := []string{
		`{}`, `{"vectorizeClassName":false}`, `{"vectorizeClassName":"false"}`, `{"properties":[]}`, `{"properties":["title",5]}`,
		`{"properties":"title"}`, `{"properties":["no"],"vectorizeClassName":false}`, `{"properties":["title"],"vectorizeClassName":false}`,
		`{"inferenceUrl":"x","queryInferenceUrl":"y"}`, `{"passageInferenceUrl":"x"}`, `{"poolingStrategy":"nonsense","dimensions":-5}`,
	}
	properties := []string{
		`[]`, `[{"name":"title","dataType":["text"]}]`,
		`[{"name":"title","dataType":["text"],"moduleConfig":{"text2vec-model2vec":{"skip":true}}}]`, `[{"name":"n","dataType":["int"]}]`,
	}
	for _, autoSchema := range []bool{true, false} {
		n.config.AutoSchema.Enabled = runtime.NewDynamicValue(autoSchema)
		for _, block := range blocks {
			for _, properties := range properties {
				text := fmt.Sprintf(`{"class":"Article","vectorizer":"%s","moduleConfig":{"%s":%s},"properties":%s}`, name, name, block, properties)
				_, expected := n.create(t, []byte(text))
				answer, err := n.module.ValidateClass(t.Context(), &pb.ValidateClassRequest{
					Config: &pb.ClassConfig{ClassJson: text, ModuleName: name}, AutoSchema: &autoSchema,
				})
				if err != nil {
					t.Fatal(err)
				}
				// Weaviate puts the module's name in front.
				said := strings.TrimPrefix(message(expected), fmt.Sprintf("module '%s': ", name))
				same(t, "class creation of "+text, said, answer.Error)
			}
		}
	}
	n.config.AutoSchema.Enabled = runtime.NewDynamicValue(true)
}

// objects compares the texts and vectors of Weaviate's module with those of the service, for the JSON that a user would send.
func (n *neighbours) objects(t *testing.T) {
	name := n.model2vec.Name()
	c := newCases(3 + testSeed(t))
	vectorized := 0
	for number := range classCount {
		written := c.class(number, n.base)
		classJSON := bytes.ReplaceAll(mustJSON(written), []byte(Name), []byte(name))
		class, err := n.create(t, classJSON)
		if err != nil {
			t.Fatalf("a generated class is not valid: %v: %s", err, classJSON)
		}
		class = stored(t, class)
		var accepted []*models.Object
		request := &pb.VectorizeBatchRequest{ReturnText: true}
		for range objectsPerClass {
			properties := mustJSON(c.object(written))
			object, err := validated(t, class, properties)
			if err != nil {
				continue
			}
			accepted = append(accepted, object)
			request.Objects = append(request.Objects, &pb.Object{Properties: &pb.Object_Json{Json: string(properties)}})
		}
		for _, target := range targets(class) {
			cfg := modules.NewClassBasedModuleConfig(class, name, "tenant", target, n.config)
			n.http.take()
			vectors, _, errs := n.model2vec.VectorizeBatch(t.Context(), accepted, make([]bool, len(accepted)), cfg)
			texts := n.http.take()
			request.Config = &pb.ClassConfig{ClassJson: string(classJSON), TargetVector: target, ModuleName: name}
			answer, err := n.module.VectorizeBatch(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			same(t, fmt.Sprintf("texts of class %s vector %q", classJSON, target), texts, textsOf(answer.Results))
			for i, result := range answer.Results {
				ours := error(nil)
				if failed := result.GetError(); failed != nil {
					ours = objectError(failed.Code, failed.Message)
				}
				same(t, "error of an object", message(errs[i]), message(ours))
				same(t, "vector of an object", bits(vectors[i]), bits(result.GetVector().GetValues()))
				if vectors[i] != nil {
					vectorized++
				}
			}
			input := pick(c, words) + " " + pick(c, words)
			expected, err := n.model2vec.VectorizeInput(t.Context(), input, cfg)
			if err != nil {
				t.Fatal(err)
			}
			query, err := n.module.VectorizeInput(t.Context(), &pb.VectorizeInputRequest{Input: input, Config: request.Config})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "vector of a query", bits(expected), bits(query.GetVector().GetValues()))
		}
	}
	if vectorized < requiredObjects/2 {
		t.Errorf("only %d objects were vectorized", vectorized)
	}
}

// reranking compares what Weaviate's client reads with what the service answers, over more documents than go into one request.
func (n *neighbours) reranking(t *testing.T) {
	client := rerankerclient.New(n.base+"/models/rank", time.Minute, silent())
	c := newCases(5 + testSeed(t))
	for _, count := range []int{1, 2, 32, 33, 100} {
		query := pick(c, words) + " " + pick(c, words)
		var documents []string
		for range count {
			document := ""
			for range c.IntN(30) {
				document += pick(c, words) + " "
			}
			documents = append(documents, document)
		}
		ranked, err := client.Rank(t.Context(), query, documents, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := n.reranker.Rerank(t.Context(), &pb.RerankRequest{Query: query, Documents: documents})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "query", query, ranked.Query)
		same(t, "scores", count, len(ranked.DocumentScores))
		same(t, "results", count, len(answer.Results))
		for i, score := range ranked.DocumentScores {
			same(t, "document", documents[i], score.Document)
			same(t, "score", bits(answer.Results[i].GetScores().GetValues()), bits([]float32{float32(score.Score)}))
		}
	}
	_, err := client.Rank(t.Context(), "a", []string{"b", strings.Repeat("x", maxTextBytes+1)}, nil)
	same(t, "a document that is too long", fmt.Sprintf("fail with status 413: document 1: a text of %d bytes, %d are allowed: split it "+
		"or raise --max-text-bytes", maxTextBytes+1, maxTextBytes), message(err))
	_, err = rerankerclient.New(n.base+"/models/m2v", time.Minute, silent()).Rank(t.Context(), "a", []string{"b"}, nil)
	same(t, "no reranker", "fail with status 400: wordlevel makes vectors and does not rerank: name a reranker among the models that are served here", message(err))
	meta, err := client.MetaInfo()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "meta", "cross-encoder", meta["sidecar"].(dict)["profile"])
}
