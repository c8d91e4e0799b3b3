package sidecar

import (
	"context"
	"encoding/json"
	"io"

	"github.com/pkg/errors"
	"github.com/weaviate/weaviate/entities/models"
	"github.com/weaviate/weaviate/entities/moduletools"

	pb "text2vec-sidecar/deploy/weaviate-module/text2vecv1"
)

// VectorizeObject gives an object's vector; nil without an error when there is no text to vectorize.
func (m *Module) VectorizeObject(ctx context.Context, object *models.Object, cfg moduletools.ClassConfig,
) ([]float32, models.AdditionalProperties, error) {
	vectors, _, errs := m.VectorizeBatch(ctx, []*models.Object{object}, []bool{false}, cfg)
	return vectors[0], nil, errs[0]
}

// VectorizeBatch gives the vectors of a batch in one call, or one stream if it is large. An error belongs to its object;
// one that ends the call belongs to all that have no answer yet.
func (m *Module) VectorizeBatch(ctx context.Context, objects []*models.Object, skip []bool, cfg moduletools.ClassConfig,
) ([][]float32, []models.AdditionalProperties, map[int]error) {
	vectors := make([][]float32, len(objects))
	errs := map[int]error{}
	types := typesOf{}
	var sent []*pb.Object
	var index []int // of sent[i] among the objects
	size := 0
	for i, object := range objects {
		if skip[i] {
			continue
		}
		properties, err := rendered(object.Properties, cfg)
		if err == nil && !types.note(properties) {
			// Values of other Go types than before under the same name. Weaviate's validation leaves no such batch.
			if err = errors.New("values of several types in one list"); len(objects) > 1 {
				if vectors[i], _, err = m.VectorizeObject(ctx, object, cfg); err != nil {
					errs[i] = err
				}
				continue
			}
		}
		var propertiesJSON []byte
		if err == nil {
			propertiesJSON, err = json.Marshal(properties)
		}
		if err != nil {
			errs[i] = errors.Wrap(err, "marshal object")
			continue
		}
		size += len(propertiesJSON)
		sent = append(sent, &pb.Object{Class: object.Class, Properties: &pb.Object_Json{Json: string(propertiesJSON)}})
		index = append(index, i)
	}
	if len(sent) == 0 {
		return vectors, make([]models.AdditionalProperties, len(objects)), errs
	}

	ctx, cancel := m.limit(ctx, len(sent))
	defer cancel()
	answered := make([]bool, len(sent))
	take := func(at int, result *pb.ObjectResult) {
		answered[at] = true
		if failed := result.GetError(); failed != nil {
			errs[index[at]] = objectError(failed.Code, failed.Message)
		} else if vector := result.GetVector(); vector != nil {
			vectors[index[at]] = vector.Values
		}
	}
	config, err := classConfig(objects[index[0]].Class, types, cfg)
	if err == nil {
		if len(sent) <= m.unaryObjects && size <= unaryBytes {
			err = m.inOneCall(ctx, config, sent, take)
		} else {
			err = m.inOneStream(ctx, config, sent, take)
		}
	}
	for at := range sent {
		if !answered[at] {
			errs[index[at]] = callError(err)
		}
	}
	return vectors, make([]models.AdditionalProperties, len(objects)), errs
}

func (m *Module) inOneCall(ctx context.Context, config *pb.ClassConfig, sent []*pb.Object,
	take func(int, *pb.ObjectResult),
) error {
	answer, err := m.client.VectorizeBatch(ctx, &pb.VectorizeBatchRequest{Objects: sent, Config: config})
	if err != nil {
		return err
	}
	if len(answer.Results) != len(sent) {
		return errors.Errorf("%d results for %d objects", len(answer.Results), len(sent))
	}
	for at, result := range answer.Results {
		take(at, result)
	}
	return nil
}

func (m *Module) inOneStream(ctx context.Context, config *pb.ClassConfig, sent []*pb.Object,
	take func(int, *pb.ObjectResult),
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the sender ends when the receiver gave up
	stream, err := m.client.VectorizeBatchStream(ctx)
	if err != nil {
		return err
	}
	go func() {
		header := &pb.VectorizeBatchStreamRequest_Header{Header: &pb.VectorizeBatchHeader{Config: config}}
		err := stream.Send(&pb.VectorizeBatchStreamRequest{Message: header})
		for at := 0; at < len(sent) && err == nil; at++ {
			object := &pb.VectorizeBatchStreamRequest_Object{Object: sent[at]}
			err = stream.Send(&pb.VectorizeBatchStreamRequest{Message: object})
		}
		if err == nil {
			_ = stream.CloseSend() // what went wrong is what Recv says
		}
	}()
	for range sent {
		answer, err := stream.Recv()
		if err == io.EOF {
			return errors.New("the stream ended before every object had its answer")
		}
		if err != nil {
			return err
		}
		if answer.Index >= uint64(len(sent)) {
			return errors.Errorf("an answer for object %d of %d", answer.Index, len(sent))
		}
		take(int(answer.Index), answer.Result)
	}
	return nil
}
