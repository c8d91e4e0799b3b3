package sidecar

import (
	"context"
	"strings"

	"github.com/go-openapi/strfmt"
	"github.com/pkg/errors"
	"github.com/weaviate/weaviate/entities/modulecapabilities"
	"github.com/weaviate/weaviate/entities/moduletools"
	"github.com/weaviate/weaviate/entities/schema/crossref"
	"github.com/weaviate/weaviate/usecases/modulecomponents/arguments/nearText"

	pb "text2vec-sidecar/deploy/weaviate-module/text2vecv1"
)

// notFound is the service's text for an object in a move that came without a vector.
const notFound = "vector not found"

// VectorSearches implements modulecapabilities.Searcher.
func (m *Module) VectorSearches() map[string]modulecapabilities.VectorForParams[[]float32] {
	return map[string]modulecapabilities.VectorForParams[[]float32]{nearText.Name: m.vectorForParams}
}

func (m *Module) vectorForParams(ctx context.Context, params any, className string,
	find modulecapabilities.FindVectorFn[[]float32], cfg moduletools.ClassConfig,
) ([]float32, error) {
	near, ok := params.(*nearText.NearTextParams)
	if !ok {
		return nil, errors.Errorf("nearText: parameters of type %T", params)
	}
	if className == "" {
		cfg = nil // a search across classes: a cfg without a class, which must not be asked
	}
	config, err := classConfig(className, nil, cfg)
	if err != nil {
		return nil, err
	}
	moveTo, toError := movement(ctx, near.MoveTo, className, find, cfg)
	moveAway, awayError := movement(ctx, near.MoveAwayFrom, className, find, cfg)
	texts := len(near.Values) + len(near.MoveTo.Values) + len(near.MoveAwayFrom.Values)
	ctx, cancel := m.limit(ctx, texts)
	defer cancel()
	answer, err := m.client.VectorForParams(ctx, &pb.VectorForParamsRequest{
		// Certainty and distance were checked against each other before, by ValidateFunction.
		NearText: &pb.NearText{Concepts: near.Values, MoveTo: moveTo, MoveAwayFrom: moveAway},
		Config:   config,
	})
	if err == nil {
		return notNil(answer.Vector.GetValues()), nil
	}
	failed := queryError(err, "vectorize keywords: "+embedding)
	// The service says whose turn it was when something failed; why an object has no vector is known here.
	switch {
	case failed.Error() == "vectorize move to: "+notFound && toError != nil:
		return nil, errors.Errorf("vectorize move to: %v", toError)
	case failed.Error() == "vectorize move away from: "+notFound && awayError != nil:
		return nil, errors.Errorf("vectorize move away from: %v", awayError)
	}
	return nil, failed
}

// movement looks the objects of a move up. When that fails for one, it is sent without a vector, and the error is what
// the service's "vector not found" stands for.
func movement(ctx context.Context, move nearText.ExploreMove, className string,
	find modulecapabilities.FindVectorFn[[]float32], cfg moduletools.ClassConfig,
) (*pb.Move, error) {
	if !(move.Force > 0) || len(move.Values)+len(move.Objects) == 0 {
		return nil, nil
	}
	sent := &pb.Move{Concepts: &pb.ConceptList{Values: move.Values}, Force: float64(move.Force)}
	var tenant, target string
	if cfg != nil {
		tenant, target = cfg.Tenant(), cfg.TargetVector()
	}
	var id strfmt.UUID // an entry with neither id nor beacon is the one before it again
	for _, object := range move.Objects {
		if object.ID != "" {
			id = strfmt.UUID(object.ID)
		}
		var err error
		if object.Beacon != "" {
			var ref *crossref.Ref
			if ref, err = crossref.Parse(object.Beacon); err == nil {
				id = ref.TargetID
			}
		}
		var vector []float32
		if err == nil {
			vector, _, err = find(ctx, className, id, tenant, target)
		}
		if err != nil {
			// An id of its own: under one that was found before it would get that vector.
			sent.Objects = append(sent.Objects, &pb.MoveObject{Id: strings.Repeat("?", len(sent.Objects)+1)})
			return sent, err
		}
		sent.Objects = append(sent.Objects, &pb.MoveObject{Id: id.String(), Vector: &pb.Vector{Values: vector}})
	}
	return sent, nil
}
