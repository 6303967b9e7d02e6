package plainjson

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/schemas"
)

func newCodec(t testing.TB, s *schemas.Schema) *Codec {
	t.Helper()
	c, err := New(1, s.Text())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestARowIsTheObjectThatItsColumnsName(t *testing.T) {
	for _, c := range []struct {
		name   string
		schema *schemas.Schema
		header string // columns by |
		cells  string
		want   Object
	}{
		{"texts, numbers, truth", schemas.OwnershipSchema, "user_name|quantity|has_product|clear", `7|7|true|["source"]`,
			Object{{"user_name", "7"}, {"quantity", json.Number("7")}, {"has_product", true}, {"clear", []any{"source"}}}},
		{"empty cells are left out", schemas.OwnershipSchema, "user_name|quantity|has_product|clear", `|||`, nil},
		{"members by their paths", schemas.CustomerEventSchema, "kind|account.number|unit.name|account.id", `web|ACR9|Main|`,
			Object{{"kind", "web"}, {"account", Object{{"number", "ACR9"}}}, {"unit", Object{{"name", "Main"}}}}},
		{"a record without any member", schemas.CustomerEventSchema, "account.number|account.id", `|`, nil},
		{"a record as JSON", schemas.CustomerEventSchema, "account|products", `{"number":"ACR9"}|[{"quantity":1}]`,
			Object{{"account", Object{{"number", "ACR9"}}}, {"products", []any{Object{{"quantity", json.Number("1")}}}}}},
		{"decimals, days and instants stay texts", schemas.CustomerEventSchema, "amount|performed_on|udf_float_1", `012.50|2016-06-22|1e3`,
			Object{{"amount", "012.50"}, {"performed_on", "2016-06-22"}, {"udf_float_1", json.Number("1e3")}}},
		{"an instant as a number", schemas.CallSchema, "started_at", `1466607600000`, Object{{"started_at", json.Number("1466607600000")}}},
		{"what cannot be meant stays", schemas.OwnershipSchema, "quantity|has_product|clear", `1,5|yes|source`,
			Object{{"quantity", "1,5"}, {"has_product", "yes"}, {"clear", "source"}}},
		{"no fields of that name", schemas.CustomerEventSchema, "ref|kind.of|account.nubmer", `1|2|3`,
			Object{{"ref", "1"}, {"kind.of", "2"}, {"account", Object{{"nubmer", "3"}}}}},
		{"columns that stand twice", schemas.CustomerEventSchema, "kind|kind|account|account.number", `a|b|{}|c`,
			Object{{"kind", "a"}, {"kind", "b"}, {"account", Object{}}, {"account", Object{{"number", "c"}}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := newCodec(t, c.schema).Columns(strings.Split(c.header, "|")).Object(strings.Split(c.cells, "|"))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestCellsOfRecordsAndListsHoldJSON(t *testing.T) {
	codec := newCodec(t, schemas.CustomerEventSchema)
	columns := codec.Columns([]string{"kind", "account.number", "unit", "products", "products.0", "nothing"})
	got := slices.Collect(columns.JSON([]string{"[1", "[2", "[3", "[4", "[5", "[6"}))
	if diff := cmp.Diff([]string{"[3", "[4"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for range columns.JSON([]string{"", "", "", "", "", ""}) {
		break
	}
}

func TestCellsThatMeanNothingAreDefects(t *testing.T) {
	codec := newCodec(t, schemas.CustomerEventSchema)
	row := codec.Columns([]string{"kind", "kind", "account.nubmer", "unit", "products", "Kind.x"}).Object([]string{"web", "web", "1", "Main", "[", "1"})
	_, defects, err := codec.Append(nil, row)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range defects {
		got = append(got, d.Message)
	}
	want := []string{"kind stands there twice.", "account.nubmer is not a field of AccountIdentifier; did you mean number?",
		`unit is "Main"; expected an object with members of Identifier.`, `products is "["; expected an array of which each is an object with members of PurchaseLine.`,
		"Kind.x is not a field of CustomerEvent; did you mean kind?"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestARefIsATextOrANumberAsWritten(t *testing.T) {
	text := func(s string) *string { return &s }
	for line, want := range map[string]struct {
		ref  *string
		rest Object
		bad  string
	}{
		`{"ref":"a","x":1}`:      {ref: text("a"), rest: Object{{"x", json.Number("1")}}},
		`{"ref":1.50}`:           {ref: text("1.50"), rest: Object{}},
		`{"ref":null}`:           {rest: Object{}},
		`{"x":null}`:             {rest: Object{{"x", nil}}},
		`{"ref":{},"x":1}`:       {rest: Object{{"x", json.Number("1")}}, bad: "ref is an object; expected a string, a number or null."},
		`{"ref":"a","ref":"b"}`:  {ref: text("a"), rest: Object{{"ref", "b"}}}, // the second is then no field
		`{"x":{"ref":"inner"} }`: {rest: Object{{"x", Object{{"ref", "inner"}}}}},
	} {
		o, err := Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		ref, bad := o.TakeRef("ref")
		message := ""
		if bad != nil {
			message = bad.Message
		}
		if diff := cmp.Diff(want.ref, ref) + cmp.Diff(want.rest, o) + cmp.Diff(want.bad, message); diff != "" {
			t.Errorf("%s (-want +got)\n%s", line, diff)
		}
	}
}

func TestDefectsCarryTheirValueAndAreBounded(t *testing.T) {
	codec := newCodec(t, schemas.OwnershipSchema)
	long := strings.Repeat("x", 500)
	_, defects, _ := codec.Append(nil, Object{{"quantity", "7"}, {"has_product", json.Number("1")}, {"source", []any{}}, {long, long + long + long}})
	var got []string
	for _, d := range defects {
		value := "none"
		if d.Value != nil {
			value = *d.Value
		}
		got = append(got, value)
		if len(d.Message) > 400 {
			t.Errorf("a message of %d bytes", len(d.Message))
		}
	}
	if diff := cmp.Diff([]string{"7", "1", "none", "none"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	var many Object
	for range 5000 {
		many = append(many, Member{"no_such_field", true})
	}
	_, defects, err := codec.Append(nil, many)
	if err != nil || len(defects) != 100 || defects[99].Message != "The item has 4901 more defects, which are not listed." {
		t.Errorf("%d defects, %v: %+v", len(defects), err, defects[len(defects)-1])
	}
}

// A row of cells is the same record as the JSON that says it.
func FuzzCells(f *testing.F) {
	f.Add("user_name|quantity|clear", "anna|3|[]")
	f.Add("kind|account.number|account|products", `web|ACR9||[{"product":{"code":"1"}}]`)
	f.Add("a.b.c|a.b|.|", "1|2|3|4")
	codecs := []*Codec{newCodec(f, schemas.OwnershipSchema), newCodec(f, schemas.CustomerEventSchema), newCodec(f, schemas.StockSchema)}
	f.Fuzz(func(t *testing.T, header, row string) {
		names, cells := strings.Split(header, "|"), strings.Split(row, "|")
		if len(names) != len(cells) {
			return
		}
		for _, c := range codecs {
			o := c.Columns(names).Object(cells)
			given := 0
			for _, cell := range cells {
				if cell != "" {
					given++
				}
			}
			if (len(o) == 0) != (given == 0) {
				t.Fatalf("%d cells became %v", given, o)
			}
			value, defects, err := c.Append(nil, o)
			if err != nil {
				t.Fatal(err)
			}
			if len(defects) > 0 {
				continue
			}
			if _, err := c.AppendJSON(nil, value); err != nil && !strings.Contains(err.Error(), "UTF-8") {
				t.Fatal(err)
			}
		}
	})
}
