package plainjson

import (
	"bytes"
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/schemas"
)

// everyType is a schema with what ours have not.
const everyType = `{"type":"record","name":"Every","namespace":"a.b","fields":[
	{"name":"n","type":"null"},{"name":"b","type":"boolean"},{"name":"i","type":"int"},{"name":"f","type":"float"},{"name":"d","type":"double"},
	{"name":"e","type":{"type":"enum","name":"E","symbols":["ONE","TWO"]}},
	{"name":"x","type":{"type":"fixed","name":"c.X","size":4}},
	{"name":"xd","type":{"type":"fixed","name":"XD","size":8,"logicalType":"decimal","precision":18,"scale":3}},
	{"name":"m","type":{"type":"map","values":["null","a.b.E"]}},
	{"name":"u","type":["null","string",{"type":"long","logicalType":"timestamp-micros"},{"type":"record","name":"R","fields":[{"name":"e","type":"E"},{"name":"x","type":"c.X"}]}]},
	{"name":"ns","type":{"type":"long","logicalType":"timestamp-nanos"}},
	{"name":"day","type":{"type":"int","logicalType":"date"}},
	{"name":"late","type":["long","null"]},
	{"name":"odd","type":{"type":"string","logicalType":"decimal"}},
	{"name":"list","type":{"type":"array","items":{"type":"array","items":"R"}}}]}`

// allSchemas are the texts of our schemas, and everyType, by name.
func allSchemas() map[string]string {
	all := map[string]string{"every type": everyType}
	for _, t := range schemas.Topics() {
		if t.Schema == nil {
			continue
		}
		all[t.Schema.Name()] = t.Schema.Text()
	}
	return all
}

// generate makes a random value of a type, as goavro has it.
func generate(r *rand.Rand, t *node) any {
	switch t.kind {
	case "union":
		b := t.branches[r.IntN(len(t.branches))]
		if b.kind == "null" {
			return nil
		}
		return map[string]any{b.name: generate(r, b)}
	case "record":
		out := map[string]any{}
		for _, f := range t.fields {
			out[f.name] = generate(r, f.typ)
		}
		return out
	case "array":
		out := []any{}
		for range r.IntN(3) {
			out = append(out, generate(r, t.element))
		}
		return out
	case "map":
		out := map[string]any{}
		for range r.IntN(3) {
			out[randomText(r)] = generate(r, t.element)
		}
		return out
	case "boolean":
		return r.IntN(2) == 0
	case "int":
		if t.logical == "date" {
			return int32(r.IntN(365*300) - 70*365)
		}
		return int32(r.Uint32())
	case "long":
		if units := unitsPerSecond[t.logical]; units != 0 {
			return (schemas.EarliestInstant.Unix()+r.Int64N(schemas.BeyondInstant.Unix()-schemas.EarliestInstant.Unix()))*units + r.Int64N(units)
		}
		return int64(r.Uint64())
	case "float":
		return float32([]float64{r.NormFloat64(), math.Inf(1), math.NaN()}[r.IntN(3)])
	case "double":
		return []float64{r.NormFloat64() * 1e9, math.SmallestNonzeroFloat64, math.MaxFloat64, math.Inf(-1), math.NaN(), math.Copysign(0, -1)}[r.IntN(6)]
	case "string":
		return randomText(r)
	case "enum":
		return t.symbols[r.IntN(len(t.symbols))]
	case "bytes", "fixed":
		if t.logical == "decimal" {
			return generateDecimal(r, t)
		}
		b := make([]byte, t.size)
		if t.kind == "bytes" {
			b = make([]byte, r.IntN(6))
		}
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	default:
		return nil
	}
}

// generateDecimal makes Avro's bytes with arithmetic unlike that of the code under test.
func generateDecimal(r *rand.Rand, t *node) []byte {
	n := new(big.Int)
	for range 1 + r.IntN(t.precision) {
		n.Add(n.Mul(n, big.NewInt(10)), big.NewInt(r.Int64N(10)))
	}
	if r.IntN(4) == 0 {
		n.SetInt64(int64(r.IntN(600)) - 300) // where the length changes
	} else if r.IntN(2) == 0 {
		n.Neg(n)
	}
	length := t.size
	if t.kind == "bytes" {
		for length = 1; ; length++ { // the shortest that holds it
			half := new(big.Int).Lsh(big.NewInt(1), uint(8*length-1))
			if n.Cmp(half) < 0 && n.Cmp(new(big.Int).Neg(half)) >= 0 {
				break
			}
		}
	}
	return new(big.Int).Mod(n, new(big.Int).Lsh(big.NewInt(1), uint(8*length))).FillBytes(make([]byte, length))
}

func randomText(r *rand.Rand) string {
	all := []rune("abcXYZ019 _-/\"'\\,{}<&ΑβÄé漢🙂\x00\n\u2028\u007f")
	out := make([]rune, r.IntN(10))
	for i := range out {
		out[i] = all[r.IntN(len(all))]
	}
	return string(out)
}

func TestWhatTailPrintsCanBeSentAgain(t *testing.T) {
	for name, text := range allSchemas() {
		t.Run(name, func(t *testing.T) {
			codec, err := New(7, text)
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(3, 4))
			for range 300 {
				want, err := codec.encode(nil, generate(r, codec.root))
				if err != nil {
					t.Fatal(err)
				}
				line, err := codec.AppendJSON(nil, want)
				if err != nil {
					t.Fatal(err)
				}
				if !json.Valid(line) || bytes.ContainsRune(line, '\n') {
					t.Fatalf("not JSON in one line: %s", line)
				}
				o, err := Parse(line)
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				native, defects := codec.native(o)
				if len(defects) > 0 {
					t.Fatalf("%s: %v", line, defects)
				}
				got, err := codec.encode(nil, native)
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				// Maps have no order; everything else gives the same bytes.
				if again, _ := codec.AppendJSON(nil, got); !bytes.Equal(again, line) {
					t.Fatalf("printed %s, after sending it %s", line, again)
				}
				if name != "every type" && !bytes.Equal(got, want) {
					t.Fatalf("%s: encoded %x, want %x", line, got, want)
				}
			}
		})
	}
}

func decode[T any](t *testing.T, s *schemas.Schema, value []byte) T {
	t.Helper()
	var v T
	if rest, err := s.Avro().Decode(value[5:], &v); err != nil || len(rest) > 0 {
		t.Fatalf("%v, %d bytes left", err, len(rest))
	}
	return v
}

func TestPlainJSONMeansWhatTheTypedCodecReads(t *testing.T) {
	codec, err := New(1, schemas.CustomerEventSchema.Text())
	if err != nil {
		t.Fatal(err)
	}
	o, err := Parse([]byte(`{"kind":"purchase","account":{"number":"ACR1"},"participant":null,"performed_on":"2016-06-22T15:00:00.250+03:00",
		"udf_date_1":"1969-12-31T23:59:59.999Z","udf_date_2":1466607600000,"udf_date_3":"2016-06-22T15:00:00","udf_float_1":1.5,
		"products":[{"product":{"code":"Bronze"},"quantity":2,"net_amount":"-1234567890123456789012345678.0000000001","vat_amount":1e-10,"total_amount":0.10}]}`))
	if err != nil {
		t.Fatal(err)
	}
	native, defects := codec.native(o)
	if len(defects) > 0 {
		t.Fatal(defects)
	}
	value, err := codec.encode(nil, native)
	if err != nil {
		t.Fatal(err)
	}
	ptr := func(s string) *string { return &s }
	dec := func(s string) *schemas.Decimal { d := decimal.RequireFromString(s); return &d }
	at := func(t time.Time) *time.Time { return &t }
	half := 1.5
	want := schemas.CustomerEvent{Kind: "purchase", Account: &schemas.AccountIdentifier{Number: ptr("ACR1")},
		EventCommon: schemas.EventCommon{
			PerformedOn: at(time.Date(2016, 6, 22, 12, 0, 0, 250e6, time.UTC)), UDFFloat1: &half,
			UDFDate1: at(time.UnixMilli(-1).UTC()), UDFDate2: at(time.UnixMilli(1466607600000).UTC()), UDFDate3: at(time.Date(2016, 6, 22, 15, 0, 0, 0, time.UTC)),
		},
		Products: &[]schemas.PurchaseLine{{Product: &schemas.ProductIdentifier{Code: ptr("Bronze")}, Quantity: dec("2"),
			NetAmount: dec("-1234567890123456789012345678.0000000001"), VATAmount: dec("0.0000000001"), TotalAmount: dec("0.1")}},
	}
	sameDecimal := cmp.Comparer(func(a, b decimal.Decimal) bool { return a.Equal(b) })
	if diff := cmp.Diff(want, decode[schemas.CustomerEvent](t, schemas.CustomerEventSchema, value), sameDecimal); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What we write, goavro prints.
	ours, err := schemas.CustomerEventSchema.Avro().AppendEncode([]byte{0, 0, 0, 0, 1}, &want)
	if err != nil {
		t.Fatal(err)
	}
	line, err := codec.AppendJSON(nil, ours)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"performed_on":"2016-06-22T12:00:00.25Z"`, `"net_amount":"-1234567890123456789012345678.0000000001"`, `"vat_amount":"0.0000000001"`, `"participant":null`} {
		if !strings.Contains(string(line), part) {
			t.Errorf("%s is not in %s", part, line)
		}
	}
}

func TestDefaultsFillWhatIsLeftOut(t *testing.T) {
	codec, err := New(1, schemas.OwnershipSchema.Text())
	if err != nil {
		t.Fatal(err)
	}
	native, defects := codec.native(Object{{"time_of_approval", "2016-02-29"}})
	if len(defects) > 0 {
		t.Fatal(defects)
	}
	value, err := codec.encode(nil, native)
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2016, 2, 29, 0, 0, 0, 0, time.UTC)
	got := decode[schemas.Ownership](t, schemas.OwnershipSchema, value)
	if diff := cmp.Diff(schemas.Ownership{TimeOfApproval: &day, Clear: []string{}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDefectsNameFieldAndRule(t *testing.T) {
	codecs := map[string]*Codec{}
	for name, text := range allSchemas() {
		var err error
		if codecs[name], err = New(1, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		schema, line string
		want         []string
	}{
		{"customer_event", `{"kind":"web","websit":"x"}`, []string{"invalid: websit is not a field of CustomerEvent; did you mean website?"}},
		{"kpi", `{"id":"1","name":"n","entirely_else_where":1}`, []string{"invalid: entirely_else_where is not a field of KPI; its fields are id, name, alternative_code."}},
		{"kpi", `{"id":null}`, []string{"missing: id may not be null; expected a string.", "missing: name is missing; expected a string."}},
		{"kpi", `{"id":"1","id":"2","name":"n"}`, []string{"invalid: id stands there twice."}},
		{"kpi", `{"id":1,"name":"n"}`, []string{"invalid: id is 1; expected a string."}},
		{"customer_event", `{"kind":"purchase","products":[{"quantity":1},{"quantity":"1,5"}]}`, []string{`invalid: products[1].quantity is "1,5"; expected a decimal number such as 12.5 or "12.5".`}},
		{"customer_event", `{"kind":"purchase","amount":0.00000000001}`, []string{"out_of_range: amount is 0.00000000001, which does not fit: at most 28 digits before the point and 10 after it, and nothing is rounded."}},
		{"customer_event", `{"kind":"purchase","amount":1e28}`, []string{"out_of_range: amount is 1e28, which does not fit: at most 28 digits before the point and 10 after it, and nothing is rounded."}},
		{"customer_event", `{"kind":"purchase","amount":1e999999999}`, []string{"out_of_range: amount is 1e999999999, which does not fit: at most 28 digits before the point and 10 after it, and nothing is rounded."}},
		{"customer_event", `{"kind":"purchase","amount":true}`, []string{`invalid: amount is true; expected a decimal number such as 12.5 or "12.5".`}},
		{"customer_event", `{"kind":"web","account":"ACR1"}`, []string{`invalid: account is "ACR1"; expected an object with members of AccountIdentifier.`}},
		{"customer_event", `{"kind":"web","products":{}}`, []string{"invalid: products is an object; expected an array of which each is an object with members of PurchaseLine."}},
		{"customer_event", `{"kind":"web","performed_on":"22/06/2016"}`, []string{`invalid: performed_on is "22/06/2016"; expected an instant such as "2016-06-22T15:00:00Z", or a count of units since 1970.`}},
		{"customer_event", `{"kind":"web","performed_on":"2016-06-22T15:00:00.1234Z"}`, []string{`out_of_range: performed_on is "2016-06-22T15:00:00.1234Z": an instant here has at most 3 fraction digits, and nothing is rounded.`}},
		{"customer_event", `{"kind":"web","performed_on":"1899-12-31T23:59:59Z"}`, []string{`out_of_range: performed_on is "1899-12-31T23:59:59Z", which is outside 1900-01-01 to 2261-12-31: this cannot be kept.`}},
		{"customer_event", `{"kind":"web","performed_on":-2208988800001}`, []string{`out_of_range: performed_on is -2208988800001, which is outside 1900-01-01 to 2261-12-31: this cannot be kept.`}},
		{"customer_event", `{"kind":"web","performed_on":9214646400000}`, []string{`out_of_range: performed_on is 9214646400000, which is outside 1900-01-01 to 2261-12-31: this cannot be kept.`}},
		{"customer_event", `{"kind":"web","udf_float_1":"much"}`, []string{`invalid: udf_float_1 is "much"; expected a number, "NaN", "Infinity" or "-Infinity".`}},
		{"customer_event", `{"kind":"web","udf_float_1":1e400}`, []string{`invalid: udf_float_1 is 1e400; expected a number, "NaN", "Infinity" or "-Infinity".`}},
		{"ownership", `{"quantity":1.5}`, []string{"invalid: quantity is 1.5; expected a whole number of 64 bits."}},
		{"ownership", `{"quantity":9223372036854775808}`, []string{"out_of_range: quantity is 9223372036854775808; expected a whole number of 64 bits."}},
		{"ownership", `{"has_product":"yes"}`, []string{`invalid: has_product is "yes"; expected true or false.`}},
		{"ownership", `{"time_of_approval":"2015-02-29"}`, []string{`invalid: time_of_approval is "2015-02-29"; expected a day such as "2016-06-22".`}},
		{"ownership", `{"clear":[1]}`, []string{"invalid: clear[0] is 1; expected a string."}},
		{"api_key", `{"id":"1","tenant":"a","secret_hash":"%","enabled":true,"note":"","created_at":0}`, []string{`invalid: secret_hash is "%"; expected a string in base64.`}},
		{"every type", `{"n":null,"b":true,"i":3000000000,"f":1,"d":1,"e":"THREE","x":"AAAA","xd":"9999999999999999","m":{"k":"NO"},"u":"x","ns":0,"day":17,"late":null,"odd":"","list":[]}`, []string{
			"out_of_range: i is 3000000000; expected a whole number of 32 bits.", `invalid: e is "THREE"; expected one of ONE, TWO.`, `invalid: x is "AAAA"; expected a string in base64 of 4 bytes.`,
			`out_of_range: xd is "9999999999999999", which does not fit: at most 15 digits before the point and 3 after it, and nothing is rounded.`,
			`invalid: m.k is "NO"; expected one of ONE, TWO.`, `invalid: u is "x"; expected an object with one member, whose name says the type: null, string, long, a.b.R.`,
			`invalid: day is 17; expected a day such as "2016-06-22".`}},
	} {
		o, err := Parse([]byte(c.line))
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		_, defects, _ := codecs[c.schema].Append(nil, o)
		var got []string
		for _, d := range defects {
			got = append(got, d.Code+": "+d.Message)
			if !strings.HasPrefix(d.Message, d.Field+" ") {
				t.Errorf("the message %q does not begin with the field %q", d.Message, d.Field)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.line, diff)
		}
	}
}

func TestLinesThatAreNoObject(t *testing.T) {
	for line, want := range map[string]string{
		`{"a":1`:                                "is not valid JSON: it ends too early",
		`{"a":1}{"b":2}`:                        "has something behind its JSON value",
		`{"a":01}`:                              "is not valid JSON: invalid character '1' after object key:value pair",
		`[{}]`:                                  "is an array; expected one JSON object",
		`null`:                                  "is null; expected one JSON object",
		"{\"a\":\"\xff\"}":                      "is not UTF-8",
		strings.Repeat("[", 70):                 "is not valid JSON: it is nested deeper than 64",
		`{"a":` + strings.Repeat(`{"a":`, 1000): "is not valid JSON: it is nested deeper than 64",
	} {
		_, err := Parse([]byte(line))
		if err == nil || err.Error() != want {
			t.Errorf("%.40s: %v, want %s", line, err, want)
		}
	}
}

func TestUndecodableValuesAreRefused(t *testing.T) {
	codec, err := New(1, schemas.KPISchema.Text())
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{
		"too short": {0, 0, 0, 0, 1, 40, 'a'}, "too long": {0, 0, 0, 0, 1, 0, 0, 0, 0}, "not UTF-8": {0, 0, 0, 0, 1, 2, 0xff, 0, 0}, "other format": {1, 2, 3},
	} {
		if line, err := codec.AppendJSON(nil, value); err == nil {
			t.Errorf("%s: printed %s", name, line)
		}
	}
}

func FuzzPlainJSON(f *testing.F) {
	codecs := map[string]*Codec{}
	for name, text := range allSchemas() {
		codec, err := New(1, text)
		if err != nil {
			f.Fatal(err)
		}
		codecs[name] = codec
		r := rand.New(rand.NewPCG(5, 6))
		value, err := codec.encode(nil, generate(r, codec.root))
		if err != nil {
			f.Fatal(err)
		}
		line, err := codec.AppendJSON(nil, value)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(name, line)
	}
	f.Fuzz(func(t *testing.T, name string, line []byte) {
		codec := codecs[name]
		if codec == nil {
			return
		}
		o, err := Parse(line)
		if err != nil {
			return
		}
		native, defects := codec.native(o)
		if len(defects) > 0 {
			return
		}
		value, err := codec.encode(nil, native)
		if err != nil {
			t.Fatalf("what had no defect does not encode: %v", err)
		}
		printed, err := codec.AppendJSON(nil, value)
		if err != nil {
			t.Fatalf("what was encoded does not print: %v", err)
		}
		o, err = Parse(printed)
		if err != nil {
			t.Fatal(err)
		}
		again, defects := codec.native(o)
		if len(defects) > 0 {
			t.Fatalf("what was printed cannot be sent: %v", defects)
		}
		if value, err = codec.encode(nil, again); err != nil {
			t.Fatal(err)
		}
		if second, err := codec.AppendJSON(nil, value); err != nil || !bytes.Equal(printed, second) {
			t.Fatalf("printed %s, after sending it %s (%v)", printed, second, err)
		}
	})
}

func schemaNamed(name string) *schemas.Schema {
	for _, t := range schemas.Topics() {
		if t.Schema != nil && t.Schema.Name() == name {
			return t.Schema
		}
	}
	return nil
}

// What does not fit leaves null or an empty value in its place: the record can be read, and what fits is in it (TestBodiesBecomeItems in ingest/v1).
func TestWhatDoesNotFitIsEmpty(t *testing.T) {
	for name, text := range allSchemas() {
		codec, err := New(7, text)
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range []any{true, json.Number("1e99"), "\x00", []any{json.Number("0.5"), nil}, Object{{Name: "no_such_field", Value: ""}}, nil} {
			var o Object
			for _, f := range codec.root.fields {
				o = append(o, Member{Name: f.name, Value: wrong})
			}
			value, defects, err := codec.Append(nil, o)
			if err != nil {
				t.Fatalf("%s of %v: %v", name, wrong, err)
			}
			if own := schemaNamed(name); own != nil { // as ingest reads it
				if _, err := own.Avro().Decode(value[5:], new(any)); err != nil {
					t.Errorf("%s of %v cannot be read: %v", name, wrong, err)
				}
			}
			native, rest, err := codec.avro.NativeFromBinary(value[5:])
			if err != nil || len(rest) > 0 {
				t.Errorf("%s of %v cannot be read: %v, %d bytes left; %v", name, wrong, err, len(rest), defects)
			}
			for _, d := range defects {
				f := codec.root.field(d.Field)
				if f == nil {
					continue // within a value, or one more
				}
				if _, nullable := f.typ.nullable(); nullable && native.(map[string]any)[f.name] != nil {
					t.Errorf("%s of %v: %s does not fit and is %v", name, wrong, d.Field, native.(map[string]any)[f.name])
				}
			}
		}
	}
}
