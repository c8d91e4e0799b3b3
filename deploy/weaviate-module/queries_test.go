package sidecar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-openapi/strfmt"
	"github.com/weaviate/weaviate/entities/models"
	"github.com/weaviate/weaviate/usecases/modulecomponents/arguments/nearText"
	"github.com/weaviate/weaviate/usecases/modules"
)

const (
	nearTextCases  = 150
	dimensions     = 384 // of the test model
	unknownID      = "00000000-0000-4000-8000-000000000000"
	otherLengthID  = "00000000-0000-4000-8000-000000000003"
	beaconOfObject = "weaviate://localhost/"
)

type lookUp struct {
	class          string
	id             strfmt.UUID
	tenant, target string
}

// stock answers look-ups as the core does, and keeps what was asked.
type stock struct{ asked []lookUp }

func (s *stock) find(_ context.Context, class string, id strfmt.UUID, tenant, target string) ([]float32, string, error) {
	s.asked = append(s.asked, lookUp{class, id, tenant, target})
	length := dimensions
	switch id {
	case "", unknownID:
		return nil, "", errors.New("vector not found for target: " + target)
	case otherLengthID:
		length = 3
	}
	seed := uint64(len(id))
	for _, character := range id {
		seed = seed*31 + uint64(character)
	}
	c, vector := newCases(seed), make([]float32, length)
	for i := range vector {
		vector[i] = c.Float32() - 0.5
	}
	return vector, target, nil
}

// queries compares nearText and single search texts over all kinds of settings.
func (p *pair) queries(t *testing.T) {
	c := newCases(3 + testSeed(t))
	original := p.original.VectorSearches()[nearText.Name]
	ours := p.ours.VectorSearches()[nearText.Name]
	for number := range nearTextCases {
		written := c.class(number, p.self)
		class, err := p.create(t, mustJSON(written), false)
		if err != nil {
			t.Fatal(err)
		}
		class = stored(t, class)
		target := pick(c, targets(class))
		cfg := modules.NewClassBasedModuleConfig(class, Name, "tenant", target, p.config)
		near := c.nearText()
		what := fmt.Sprintf("%+v with %s %q", near, mustJSON(class), target)

		var expectedAsked, asked stock
		expected, expectedErr := original(t.Context(), near, class.Class, expectedAsked.find, cfg)
		vector, err := ours(t.Context(), near, class.Class, asked.find, cfg)
		same(t, "nearText, error: "+what, message(expectedErr), message(err))
		same(t, "nearText, vector: "+what, bits(expected), bits(vector))
		if expectedErr == nil {
			same(t, "nearText, objects looked up: "+what, expectedAsked.asked, asked.asked)
		}
		input := c.text()
		expected, expectedErr = p.original.VectorizeInput(t.Context(), input, cfg)
		vector, err = p.ours.VectorizeInput(t.Context(), input, cfg)
		same(t, fmt.Sprintf("input %q, error: %s", input, what), message(expectedErr), message(err))
		same(t, fmt.Sprintf("input %q, vector: %s", input, what), bits(expected), bits(vector))
		seen.queries += 2
	}

	// A search across classes has a configuration without class, from which the original's code cannot read.
	near := &nearText.NearTextParams{Values: []string{"no class"}}
	vector, err := ours(t.Context(), near, "", (&stock{}).find, modules.NewCrossClassModuleConfig(p.config))
	class := modules.NewClassBasedModuleConfig(&models.Class{Class: "Any"}, Name, "", "", p.config)
	expected, expectedErr := original(t.Context(), near, "Any", (&stock{}).find, class)
	same(t, "no class, error", message(expectedErr), message(err))
	same(t, "no class, vector", bits(expected), bits(vector))
	if _, err := ours(t.Context(), "text", "Any", (&stock{}).find, class); err == nil {
		t.Error("parameters of a wrong type are accepted")
	}
}

func (c cases) nearText() *nearText.NearTextParams {
	near := &nearText.NearTextParams{Values: c.concepts(1)}
	if c.chance(3) {
		near.Values = nil
	}
	if c.chance(70) {
		near.MoveTo = c.move([]float32{0.25, 0.5, 0.1, 1, 1.5, 0, -1})
	}
	if c.chance(60) {
		near.MoveAwayFrom = c.move([]float32{0.25, 0.5, 0.3, 1, 7.25, 0, -0.5})
	}
	near.Certainty = pick(c, []float64{0, 0.7})
	return near
}

func (c cases) concepts(least int) []string {
	var concepts []string
	for range least + c.IntN(3) {
		concepts = append(concepts, c.text())
	}
	return concepts
}

func (c cases) move(forces []float32) nearText.ExploreMove {
	move := nearText.ExploreMove{Force: pick(c, forces), Values: c.concepts(0)}
	for range c.IntN(4) {
		id := fmt.Sprintf("00000000-0000-4000-8000-0000000000%02d", 10+c.IntN(5))
		if c.chance(4) {
			id = pick(c, []string{unknownID, otherLengthID})
		}
		object := nearText.ObjectMove{}
		if c.chance(60) {
			object.ID = id
		}
		if c.chance(40) {
			object.Beacon = beaconOfObject + pick(c, []string{"Article/", "", "article/"}) + strings.ToUpper(id)
		}
		if c.chance(4) {
			object.Beacon = pick(c, []string{"x", "weaviate://localhost/a/b/c", ":x", beaconOfObject + "Article/xyz", beaconOfObject})
		}
		move.Objects = append(move.Objects, object)
	}
	return move
}
