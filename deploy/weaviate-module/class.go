package sidecar

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/pkg/errors"
	"github.com/weaviate/weaviate/entities/models"
	"github.com/weaviate/weaviate/entities/moduletools"

	pb "text2vec-sidecar/deploy/weaviate-module/text2vecv1"
)

// classConfig is the class as the service wants it, in the JSON of the REST schema. Weaviate hands the module no class,
// only a view of its settings (cfg), so one is put together that has the same settings, the objects' properties and, as
// data types, those of their Go values: the module's original goes by the Go types too.
//
// No cfg, as in a search across classes, is no class: every setting has its default.
func classConfig(name string, types typesOf, cfg moduletools.ClassConfig) (*pb.ClassConfig, error) {
	if cfg == nil {
		return &pb.ClassConfig{}, nil
	}
	class := models.Class{Class: name}
	target, modules := cfg.TargetVector(), map[string]any{Name: cfg.Class()}
	if target == "" {
		class.ModuleConfig = modules
	} else {
		class.VectorConfig = map[string]models.VectorConfig{target: {Vectorizer: modules}}
	}
	for _, nested := range types.properties() {
		class.Properties = append(class.Properties, &models.Property{
			Name: nested.Name, DataType: nested.DataType, NestedProperties: nested.NestedProperties,
			ModuleConfig: map[string]any{Name: cfg.Property(nested.Name)},
		})
	}
	classJSON, err := json.Marshal(class)
	if err != nil {
		return nil, errors.Wrap(err, "marshal class")
	}
	return &pb.ClassConfig{ClassJson: string(classJSON), TargetVector: target, Tenant: cfg.Tenant()}, nil
}

// rendered gives the properties whose Go types the original renders, in a form that JSON keeps. Whole numbers and untyped
// lists never come out of Weaviate's validation; the original has its own forms for them (%v), only with source properties.
func rendered(properties models.PropertySchema, cfg moduletools.ClassConfig) (map[string]any, error) {
	values, ok := properties.(map[string]any)
	if !ok && properties != nil {
		return nil, errors.Errorf("properties: %T is not a map", properties)
	}
	sources := cfg != nil && cfg.Class()["properties"] != nil
	kept := make(map[string]any, len(values))
	for name, value := range values {
		switch value := value.(type) {
		case string, []string, bool, []bool, float64, []float64, time.Time, []time.Time, uuid.UUID, []uuid.UUID,
			map[string]any:
			kept[name] = value
		case int, int16, int32, int64, float32, json.Number:
			if sources {
				kept[name] = fmt.Sprint(value)
			}
		case []int:
			if sources {
				kept[name] = printed(value)
			}
		case []int64:
			if sources {
				kept[name] = printed(value)
			}
		case []map[string]any:
			text, err := json.Marshal(value)
			if err != nil {
				return nil, err
			}
			if sources {
				kept[name] = string(text)
			}
		case []any:
			if len(value) == 0 || !sources {
				continue
			}
			if _, ok := value[0].(map[string]any); ok {
				kept[name] = value
			} else {
				kept[name] = printed(value)
			}
		}
	}
	return kept, nil
}

func printed[T any](values []T) []string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = fmt.Sprint(value)
	}
	return texts
}

// typesOf has the data types of the values seen under each name.
type typesOf map[string]*valueType

type valueType struct {
	name    string // "" = only nulls so far
	members typesOf
}

// note adds the types of more values; false if one has another type than before.
func (t typesOf) note(values map[string]any) bool {
	for name, value := range values {
		if t[name] == nil {
			t[name] = &valueType{members: typesOf{}}
		}
		if !t[name].note(value) {
			return false
		}
	}
	return true
}

func (t *valueType) note(value any) bool {
	name, same := dataType(value), true
	switch value := value.(type) {
	case nil:
		return true
	case map[string]any:
		same = t.members.note(value)
	case []any:
		for _, element := range value {
			if members, ok := element.(map[string]any); ok {
				same = same && t.members.note(members)
			}
		}
	}
	if !same || t.name != "" && t.name != name {
		return false
	}
	t.name = name
	return true
}

func dataType(value any) string {
	switch value := value.(type) {
	case []string:
		return "text[]"
	case bool:
		return "boolean"
	case []bool:
		return "boolean[]"
	case float64:
		return "number" // rendered as "int" is
	case []float64:
		return "number[]"
	case time.Time:
		return "date"
	case []time.Time:
		return "date[]"
	case uuid.UUID:
		return "uuid"
	case []uuid.UUID:
		return "uuid[]"
	case map[string]any:
		return "object"
	case []any:
		if len(value) == 0 {
			return "object[]"
		}
		return dataType(value[0]) + "[]"
	default:
		return "text"
	}
}

// properties are sorted, so that the same types make the same class.
func (t typesOf) properties() []*models.NestedProperty {
	var properties []*models.NestedProperty
	for name, value := range t {
		property := &models.NestedProperty{
			Name: name, DataType: []string{value.name}, NestedProperties: value.members.properties(),
		}
		if value.name == "" {
			property.DataType[0] = "text"
		}
		properties = append(properties, property)
	}
	slices.SortFunc(properties, func(a, b *models.NestedProperty) int { return strings.Compare(a.Name, b.Name) })
	return properties
}
