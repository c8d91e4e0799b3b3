package sidecar

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// cases makes classes and objects as users write them: JSON of the REST API. The same seed makes the same cases.
type cases struct{ *rand.Rand }

type dict = map[string]any

var (
	classNames = []string{
		"Article", "PDFLoader", "URLs", "My_Class2", "A", "HTTPServer4Users", "Userdata", "X9y", "ABCdefGHI", "News_",
	}
	propertyNames = []string{
		"title", "myProp", "my_prop", "_private", "aB", "a_", "ab", "p10", "p2", "userIDsList", "uRL", "body", "x", "y2k",
		"kindOfThing", "z", "aLongerNameWithABCInside", "q", "w_1_e", "last",
	}
	memberNames = []string{"a", "B", "inner_name", "zip", "userID", "n", "<k>"}
	dataTypes   = []string{
		"text", "text[]", "string", "string[]", "blob", "blobHash", "int", "int[]", "number", "number[]", "boolean",
		"boolean[]", "date", "date[]", "uuid", "uuid[]", "object", "object[]", "geoCoordinates", "phoneNumber", "Target",
	}
	nestedTypes = []string{
		"text", "text[]", "int", "int[]", "number", "number[]", "boolean", "boolean[]", "date", "date[]", "uuid", "uuid[]",
		"blob", "object", "object[]",
	}
	words = []string{
		"water", "Berlin", "the", "of", "C3PO's", "naïve", "Straße", "İstanbul", "ΣΟΦΟΣ", "ẞ", "ǅ", "Ⅳ", "日本語", "🙂", "<b>&amp;",
		"\"quoted\"", "back\\slash", "line\nbreak", "tab\t", "\u2028", "\u00a0", "e\u0301", "camelCase", "3.14", "null",
		"fast.", "Hello!", "why?", "\u0001", "ﬃ", "ⓑ", "x²",
	}
	numbers = []string{
		"0", "-0", "-0.0", "1", "1.5", "1.50", "1e3", "-2.25E-3", "999999", "999999.9999", "1000000", "1234567.5", "1e21",
		"1e20", "1e-7", "0.000001", "0.0001", "0.00001", "5e-324", "1.7976931348623157e308", "123456789012345678901234567890",
		"9007199254740993", "0.1", "3.4028234663852886e38",
	}
	ints = []string{
		"0", "1", "-1", "42", "999999", "1000000", "20240131", "9007199254740993", "9223372036854775807",
		"-9223372036854775808", "-0",
	}
	dates = []string{
		"2020-01-02T03:04:05Z", "2020-01-02T03:04:05.678+02:00", "1999-12-31T23:59:59.999999999-11:30",
		"2024-02-29T00:00:00+00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2020-01-02T03:04:05.5Z",
	}
	uuids = []string{
		"4e5cd755-4f43-44c5-b23c-0c7d6f6c21e6", "4E5CD755-4F43-44C5-B23C-0C7D6F6C21E7", "4e5cd7554f4344c5b23c0c7d6f6c21e8",
		"urn:uuid:4e5cd755-4f43-44c5-b23c-0c7d6f6c21e9", "{4e5cd755-4f43-44c5-b23c-0c7d6f6c21ea}",
	}
)

func newCases(seed uint64) cases { return cases{rand.New(rand.NewPCG(seed, 4))} }

func pick[T any](c cases, from []T) T { return from[c.IntN(len(from))] }

func (c cases) chance(percent int) bool { return c.IntN(100) < percent }

// class makes a class; number decides on the kind of configuration, so that a few dozen classes have them all. self is
// a URL under which the sidecar knows itself.
func (c cases) class(number int, self string) dict {
	properties := []any{}
	var names []string
	// Each class starts elsewhere in the list of types, so every type is met by every kind of configuration.
	for i, name := range pickSome(c, propertyNames, 6+c.IntN(7)) {
		property := c.property(name, dataTypes[(number*5+i)%len(dataTypes)])
		if c.chance(70) {
			property["moduleConfig"] = dict{Name: c.propertySettings()}
		}
		properties = append(properties, property)
		names = append(names, name)
	}
	class := dict{"class": pick(c, classNames) + pick(c, []string{"", "", "Two", "_x", "99"}), "properties": properties}
	if number%3 == 0 {
		class["vectorizer"] = Name
		if number%6 != 0 { // a class without any configuration is a case, too
			class["moduleConfig"] = dict{Name: c.settings(number, names, self)}
		}
		return class
	}
	vectors := dict{}
	for i := range 1 + c.IntN(3) {
		vectors[[]string{"default", "title_vec", "Vec3"}[i]] = dict{
			"vectorIndexType": "hnsw", "vectorizer": dict{Name: c.settings(number+i, names, self)},
		}
	}
	class["vectorConfig"] = vectors
	return class
}

func (c cases) property(name, dataType string) dict {
	property := dict{"name": name, "dataType": []any{dataType}}
	if strings.HasPrefix(dataType, "object") {
		property["nestedProperties"] = c.members(2)
	}
	return property
}

func (c cases) members(depth int) []any {
	members := []any{}
	for _, name := range pickSome(c, memberNames, 2+c.IntN(4)) {
		member := dict{"name": name, "dataType": []any{pick(c, nestedTypes)}}
		if dataType := member["dataType"].([]any)[0].(string); strings.HasPrefix(dataType, "object") {
			if depth == 0 {
				member["dataType"] = []any{"text"}
			} else {
				member["nestedProperties"] = c.members(depth - 1)
			}
		}
		members = append(members, member)
	}
	return members
}

func (c cases) propertySettings() any {
	settings := dict{}
	if c.chance(60) {
		settings["skip"] = pick(c, []any{true, false, false, "true", nil})
	}
	if c.chance(70) {
		settings["vectorizePropertyName"] = pick(c, []any{true, true, false, 1, "true"})
	}
	return settings
}

func (c cases) settings(number int, names []string, self string) dict {
	settings := dict{"unknown": dict{"a": []any{1}}}
	if c.chance(70) {
		settings["vectorizeClassName"] = pick(c, []any{true, false, false, false, "false", nil, 0})
	}
	if c.chance(50) {
		settings["poolingStrategy"] = pick(c, []any{"masked_mean", "cls", "cls", "", 5, nil})
	}
	if number%8 == 5 {
		settings["poolingStrategy"] = pick(c, []any{"CLS", "no <such> \"pooling\""}) // accepted, and every text fails
	}
	if c.chance(40) {
		settings["dimensions"] = pick(c, []any{256, 256.9, 0, -3, "128", "+64", "x", nil, true, 1e30})
	}
	if number%2 == 1 {
		sources := []any{}
		for _, name := range pickSome(c, names, 2+c.IntN(len(names)-1)) {
			sources = append(sources, name)
		}
		settings["properties"] = append(sources, "Title", "no_such")
	}
	switch number % 7 {
	case 3:
		settings["inferenceUrl"] = self
	case 4:
		settings["passageInferenceUrl"], settings["queryInferenceUrl"] = self, self+"/"
	}
	return settings
}

// object makes the properties of an object of a class; about one in twenty has a value that Weaviate refuses.
func (c cases) object(class dict) dict {
	object := dict{}
	for _, property := range class["properties"].([]any) {
		property := property.(dict)
		name := property["name"].(string)
		switch {
		case c.chance(20):
		case c.chance(4):
			object[name] = nil
		case c.chance(6):
			object[strings.ToUpper(name[:1])+name[1:]] = c.value(property)
		default:
			object[name] = c.value(property)
		}
	}
	switch { // one fault at most: which of two Weaviate reports is chance
	case c.chance(1):
		object["not_there"] = "x"
	case c.chance(5):
		property := pick(c, class["properties"].([]any)).(dict)
		object[property["name"].(string)] = c.wrong(property["dataType"].([]any)[0].(string))
	}
	return object
}

func (c cases) value(property dict) any {
	dataType := property["dataType"].([]any)[0].(string)
	if kind, isList := strings.CutSuffix(dataType, "[]"); isList {
		list := []any{}
		for range c.IntN(4) {
			list = append(list, c.scalar(kind, property))
		}
		return list
	}
	return c.scalar(dataType, property)
}

func (c cases) scalar(kind string, property dict) any {
	switch kind {
	case "text", "string":
		return c.text()
	case "blob", "blobHash":
		return base64.StdEncoding.EncodeToString([]byte(c.text() + "."))
	case "int":
		return json.Number(pick(c, ints))
	case "number":
		return json.Number(pick(c, numbers))
	case "boolean":
		return c.chance(50)
	case "date":
		return pick(c, dates)
	case "uuid":
		return pick(c, uuids)
	case "geoCoordinates":
		return dict{"latitude": 52.5, "longitude": json.Number("-1.3e1")}
	case "phoneNumber":
		return dict{"input": "+491711234567"}
	case "object":
		object := dict{}
		for _, member := range property["nestedProperties"].([]any) {
			member := member.(dict)
			switch {
			case c.chance(15):
			case c.chance(10):
				object[member["name"].(string)] = nil
			default:
				object[member["name"].(string)] = c.value(member)
			}
		}
		return object
	default:
		return []any{dict{"beacon": "weaviate://localhost/Target/" + uuids[0]}}
	}
}

// text is a few words; sometimes nothing, blanks, or more than the sidecar of the tests accepts.
func (c cases) text() string {
	switch {
	case c.chance(8):
		return pick(c, []string{"", "", " ", "  ", "\n"})
	case c.chance(1):
		return strings.Repeat("much text ", maxTextBytes/9)
	}
	var text strings.Builder
	for i := range 1 + c.IntN(6) {
		if i > 0 {
			text.WriteString(pick(c, []string{" ", " ", " ", ", ", "  "}))
		}
		text.WriteString(pick(c, words))
	}
	return text.String()
}

// wrong is a value that no property of the data type takes.
func (c cases) wrong(dataType string) any {
	if strings.HasSuffix(dataType, "[]") {
		return pick(c, []any{json.Number("1.50"), dict{"a": nil}, []any{[]any{json.Number("1")}}, "text", true})
	}
	switch dataType {
	case "int":
		return pick(c, []any{json.Number("5.0"), json.Number("1e3"), "5", true, json.Number("9223372036854775808")})
	case "number", "boolean":
		return pick(c, []any{"5", []any{}, dict{}})
	case "date", "uuid":
		return pick(c, []any{"2020-01-02", "2020-01-02t03:04:05z", json.Number("5"), "x"})
	case "blob", "blobHash":
		return pick(c, []any{"", "not base64", "aGVsbG8", json.Number("5")})
	case "geoCoordinates", "phoneNumber", "Target":
		return nil // not looked into by the sidecar
	default: // text, object
		return pick(c, []any{json.Number("5"), true, []any{"x"}})
	}
}

func pickSome[T any](c cases, from []T, count int) []T {
	count = min(count, len(from))
	picked := make([]T, count)
	for i, at := range c.Perm(len(from))[:count] {
		picked[i] = from[at]
	}
	return picked
}

func mustJSON(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("a case cannot be written: %v", err))
	}
	return text
}
