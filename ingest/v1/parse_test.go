package v1

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

func kindNamed(t testing.TB, name string) *Kind {
	t.Helper()
	i := slices.IndexFunc(kinds, func(k *Kind) bool { return k.Name == name })
	if i < 0 {
		t.Fatalf("there is no kind %s", name)
	}
	return kinds[i]
}

// told is what of an item matters to a test.
type told struct {
	Ref     string // "-": none
	Value   any
	Defects []string // "code field"
	As      string   // format and original; of unprocessed items
}

func tell(items []ingest.Item) (all []told) {
	for _, it := range items {
		one := told{Ref: "-", Value: it.Value}
		if it.Ref != nil {
			one.Ref = *it.Ref
		}
		for _, d := range it.Defects {
			one.Defects = append(one.Defects, strings.TrimSpace(d.Code+" "+d.Field))
		}
		if len(it.Defects) > 0 {
			one.As, one.Value = it.Format+" "+string(it.Original), nil
		}
		all = append(all, one)
	}
	return all
}

func TestBodiesBecomeItems(t *testing.T) {
	anna := &schemas.Ownership{UserName: new("anna"), ProductSKU: new("S"), Quantity: new(int64(3)), Clear: []string{}}
	day := time.Date(2016, 2, 29, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, kind, media, body string
		want                    []told
	}{
		{"an array", "ownership", mediaJSON, ` [{"user_name":"anna","product_sku":"S","quantity":3,"ref":"a"}] `, []told{{Ref: "a", Value: anna}}},
		{"wrapped", "ownership", mediaJSON, `{"items":[{"ref":7,"user_name":"anna","product_sku":"S","quantity":3}]}`, []told{{Ref: "7", Value: anna}}},
		{"lines", "ownership", mediaNDJSON, "{\"user_name\":\"anna\",\"product_sku\":\"S\",\"quantity\":3}\r\n\n \n{\"user_name\":\"anna\",\"product_sku\":\"S\",\"quantity\":3,\"ref\":null}",
			[]told{{Ref: "-", Value: anna}, {Ref: "-", Value: anna}}},
		{"a table", "ownership", mediaCSV, "ref,user_name,product_sku,quantity,has_product,clear\r\na,anna,S,3,,\n\n\"b\nc\",,,,false,\"[\"\"source\"\"]\"",
			[]told{{Ref: "a", Value: anna}, {Ref: "b\nc", Value: &schemas.Ownership{HasProduct: new(false), Clear: []string{"source"}}}}},
		{"marks of UTF-8", "ownership", mediaNDJSON, "\ufeff{\"user_name\":\"anna\",\"product_sku\":\"S\",\"quantity\":3}", []told{{Ref: "-", Value: anna}}},
		{"no items", "sales", mediaJSON, `[]`, nil},
		{"no items, wrapped", "sales", mediaJSON, `{"items":[]}`, nil},
		{"no lines", "sales", mediaNDJSON, "\n", nil},
		{"a header alone", "sales", mediaCSV, "id,date\n", nil},
		{"members by path", "customer-parts", mediaCSV, "customer,product,part_number\n77,P,X-1", []told{{Ref: "-", Value: &schemas.CustomerPart{Customer: 77, Product: "P", PartNumber: "X-1"}}}},
		{"records of records", "customer-events", mediaCSV, "ref,kind,account.number,unit.name,performed_on,website\n06,web,ACR9,Admin Unit,2016-06-22T15:00:00,x",
			[]told{{Ref: "06", Value: &schemas.CustomerEvent{Kind: "web", Account: &schemas.AccountIdentifier{Number: new("ACR9")}, Website: new("x"),
				EventCommon: schemas.EventCommon{Unit: &schemas.Identifier{Name: new("Admin Unit")}, PerformedOn: new(time.Date(2016, 6, 22, 15, 0, 0, 0, time.UTC))}}}}},
		{"every kind of number", "order-lines", mediaJSON, `[{"id":"1","customer":77,"product":"P","quantity":"-0.10","ordered_on":"2016-02-29"}]`,
			[]told{{Ref: "-", Value: &schemas.OrderLine{ID: "1", Customer: 77, Product: "P", Quantity: decimal.RequireFromString("-0.1"), OrderedOn: day}}}},
		{"bad items beside good ones", "ownership", mediaJSON, `[1, {"ref":"b","quantity":"3","user":"x"},{"user_name":"anna","product_sku":"S","quantity":3}, null,[],{"ref":[]}]`, []told{
			{Ref: "-", Defects: []string{"invalid"}, As: "json 1"},
			{Ref: "b", Defects: []string{"invalid quantity", "invalid user", "missing user_name", "missing product_sku"}, As: `json {"ref":"b","quantity":"3","user":"x"}`},
			{Ref: "-", Value: anna},
			{Ref: "-", Defects: []string{"invalid"}, As: "json null"}, {Ref: "-", Defects: []string{"invalid"}, As: "json []"},
			{Ref: "-", Defects: []string{"invalid ref", "missing user_name", "missing product_sku"}, As: `json {"ref":[]}`}}},
		{"lines that are no objects", "ownership", mediaNDJSON, "{\n\"x\"\n{}{}", []told{
			{Ref: "-", Defects: []string{"invalid"}, As: "json {"}, {Ref: "-", Defects: []string{"invalid"}, As: `json "x"`}, {Ref: "-", Defects: []string{"invalid"}, As: "json {}{}"}}},
		{"rows that do not fit", "ownership", mediaCSV, "ref,quantity\n1,2,3\n4,five\r\n6\n", []told{
			{Ref: "-", Defects: []string{"invalid"}, As: "csv 1,2,3"}, {Ref: "4", Defects: []string{"invalid quantity", "missing user_name", "missing product_sku"}, As: "csv 4,five"}, {Ref: "-", Defects: []string{"invalid"}, As: "csv 6"}}},
		{"line ends in quotes", "ownership", mediaCSV, "ref,quantity\r\n\"a\r\nb\n\",five\r\n\r\n\"\r\n\",\r\n", []told{
			{Ref: "a\r\nb\n", Defects: []string{"invalid quantity", "missing user_name", "missing product_sku"}, As: "csv \"a\r\nb\n\",five"}, {Ref: "\r\n", Value: &schemas.Ownership{Clear: []string{}}}}},
		{"a column that is no field", "ownership", mediaCSV, "ref,quantiti\n1,\n2,3\n", []told{
			{Ref: "1", Value: &schemas.Ownership{Clear: []string{}}}, {Ref: "2", Defects: []string{"invalid quantiti", "missing user_name", "missing product_sku"}, As: "csv 2,3"}}},
		{"brackets in a text", "ownership", mediaCSV, "user_name\n" + strings.Repeat("[", 65), []told{
			{Ref: "-", Value: &schemas.Ownership{UserName: new(strings.Repeat("[", 65)), Clear: []string{}}}}},
		{"a long ref", "ownership", mediaJSON, `[{"ref":"` + strings.Repeat("x", 1001) + `"}]`, []told{
			{Ref: "-", Defects: []string{"out_of_range ref", "missing user_name", "missing product_sku"}, As: `json {"ref":"` + strings.Repeat("x", 1001) + `"}`}}},
		{"records are checked", "customers", mediaJSON, `[{"ref":"a","id":0,"account_number":"12345678901"},{"id":1}]`, []told{
			{Ref: "a", Defects: []string{"out_of_range id", "out_of_range account_number"}, As: `json {"ref":"a","id":0,"account_number":"12345678901"}`},
			{Ref: "-", Value: &schemas.Customer{ID: 1}}}},
		{"what does not fit is told beside the rest", "customers", mediaJSON, `[{"id":"x","account_number":"12345678901"}]`, []told{
			{Ref: "-", Defects: []string{"invalid id", "out_of_range account_number"}, As: `json {"id":"x","account_number":"12345678901"}`}}},
		{"what does not fit is not missing as well", "customer-events", mediaJSON, `[{"kind":"web","performed_on":"x","account":{"number":7}}]`, []told{
			{Ref: "-", Defects: []string{"invalid performed_on", "invalid account.number", "missing unit", "missing website"},
				As: `json {"kind":"web","performed_on":"x","account":{"number":7}}`}}},
		{"nor is the other one of two of which one must be there", "sales", mediaJSON, `[{"date":"2023-01-31","lookback":1,"clis":"0791"}]`, []told{
			{Ref: "-", Defects: []string{"invalid clis"}, As: `json {"date":"2023-01-31","lookback":1,"clis":"0791"}`}}},
		{"items are not: the processors do", "ownership", mediaJSON, `[{"quantity":-1}]`, []told{{Ref: "-", Value: &schemas.Ownership{Quantity: new(int64(-1)), Clear: []string{}}}}},
		{"instants out of range", "calls", mediaJSON, `[{"id":"c","started_at":"9999-12-31T00:00:00Z"}]`, []told{
			{Ref: "-", Defects: []string{"out_of_range started_at"}, As: `json {"id":"c","started_at":"9999-12-31T00:00:00Z"}`}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parsers[c.media].parse(kindNamed(t, c.kind), "demo", []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, tell(got), cmp.Comparer(func(a, b decimal.Decimal) bool { return a.Equal(b) })); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestBodiesThatCannotBeRead(t *testing.T) {
	for _, c := range []struct{ name, media, body, want string }{
		{"nothing", mediaJSON, " ", "the body cannot be read: it is empty"},
		{"a word", mediaJSON, "x", "the body cannot be read: expected a value at line 1, column 1"},
		{"no array", mediaJSON, `"x"`, `the body cannot be read: expected an array of items, or {"items":[…]}`},
		{"one item alone", mediaJSON, `{"user_name":"anna"}`, `the body cannot be read: it has a member "user_name"; expected {"items":[…]} and nothing else`},
		{"an empty object", mediaJSON, `{}`, `the body cannot be read: it has no member items; expected an array of items, or {"items":[…]}`},
		{"items twice", mediaJSON, `{"items":[],"items":[]}`, "the body cannot be read: it has items twice"},
		{"items that are none", mediaJSON, `{"items":{}}`, "the body cannot be read: items is no array"},
		{"broken off", mediaJSON, `[{"user_name":"anna"},`, "the body cannot be read: unexpected end, a value is missing at line 1, column 23"},
		{"something behind", mediaJSON, `[] []`, "the body cannot be read: unexpected text after the value at line 1, column 4"},
		{"comments", mediaJSON, "[] // none", "the body cannot be read: unexpected text after the value at line 1, column 4"},
		{"too deep", mediaJSON, strings.Repeat("[", 65) + strings.Repeat("]", 65), "the body cannot be read: nested deeper than 64 levels at line 1, column 65"},
		{"a line that is too deep", mediaNDJSON, "{}\n" + strings.Repeat(`{"a":`, 65), "the body cannot be read: line 2 is nested deeper than 64 levels"},
		{"a cell that is too deep", mediaCSV, "ref,clear\n1,[]\n2," + strings.Repeat("[", 65), "the body cannot be read: the JSON in line 3 is nested deeper than 64 levels"},
		{"not UTF-8", mediaNDJSON, "{\"user_name\":\"\xff\"}", "the body cannot be read: it is not UTF-8"},
		{"no header", mediaCSV, "", "the body cannot be read: it is empty; the first row has the names of the fields"},
		{"a stray quote", mediaCSV, "ref\na\"b", "the body cannot be read: line 2, column 2: bare \" in non-quoted-field"},
		{"an open quote", mediaCSV, "ref\n\"b", "the body cannot be read: line 2, column 3: extraneous or missing \" in quoted-field"},
	} {
		t.Run(c.name, func(t *testing.T) {
			items, err := parsers[c.media].parse(kindNamed(t, "ownership"), "demo", []byte(c.body))
			e := ingest.AsError(err)
			if err == nil || e.Code != ingest.CodeMalformed || e.Message != c.want || items != nil {
				t.Errorf("%d items, %v, want %s", len(items), err, c.want)
			}
		})
	}
}

func TestARequestHasAtMostTenThousandItems(t *testing.T) {
	for media, body := range map[string]func(n int) string{
		mediaJSON:   func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("{},", n), ",") + "]" },
		mediaNDJSON: func(n int) string { return strings.Repeat("{}\n", n) },
		mediaCSV:    func(n int) string { return "ref\n" + strings.Repeat("1\n", n) },
	} {
		items, err := parsers[media].parse(kindNamed(t, "sales"), "demo", []byte(body(ingest.MaxItems)))
		if err != nil || len(items) != ingest.MaxItems {
			t.Errorf("%s: %d items, %v", media, len(items), err)
		}
		if _, err = parsers[media].parse(kindNamed(t, "sales"), "demo", []byte(body(ingest.MaxItems+1))); err == nil || ingest.AsError(err).Code != ingest.CodeTooLarge {
			t.Errorf("%s: one more: %v", media, err)
		}
	}
}

func TestAnItemIsNoWayToFillTheMemory(t *testing.T) {
	many := strings.Repeat("[],", 2<<20) + "[]"
	for media, body := range map[string]string{
		mediaJSON: `[{},{"clis":[` + many + `]}]`, mediaNDJSON: "{}\n{\"clis\":[" + many + "]}", mediaCSV: "ref,clis\n1,\n2,\"[" + many + "]\"",
	} {
		_, err := parsers[media].parse(kindNamed(t, "sales"), "demo", []byte(body))
		if e := ingest.AsError(err); err == nil || e.Code != ingest.CodeTooLarge || e.Index != 1 {
			t.Errorf("%s: %v", media, err)
		}
	}
	members := strings.Repeat(`"no_such_field":1,`, 50_000) + `"ref":1`
	start := time.Now()
	items, err := parseJSON(kindNamed(t, "customer-events"), "demo", []byte("[{"+members+"}]"))
	if err != nil || len(items[0].Defects) != 100 || time.Since(start) > 2*time.Second {
		t.Errorf("after %v: %d defects, %v", time.Since(start), len(items[0].Defects), err)
	}
}

func TestKeysAreThoseOfTheEngine(t *testing.T) {
	for _, c := range []struct {
		kind, item string
		want       []byte
	}{
		{"ownership", `{"user_name":"ANNA","product_sku":"s"}`, upserts.Key("demo", &schemas.Ownership{UserName: new("anna"), ProductSKU: new("S")})},
		{"referrals", `{}`, []byte("demo")},
		{"sales", `{"id":"7"}`, matching.Key("demo", &schemas.Sale{ID: new("7")}, "")},
		{"sales", `{"id":""}`, nil}, {"sales", `{}`, nil},
		{"transactions", `{}`, nil},
		{"customer-events", `{"kind":"web"}`, nil},
	} {
		items, err := parseJSON(kindNamed(t, c.kind), "demo", []byte("["+c.item+"]"))
		if err != nil || len(items[0].Defects) > 0 || !bytes.Equal(items[0].Key, c.want) {
			t.Errorf("%s %s: %q, want %q (%v)", c.kind, c.item, items[0].Key, c.want, err)
		}
	}
}

func TestThereIsAKindForEveryTopicThatMayBeWritten(t *testing.T) {
	var got []string
	for _, k := range Kinds() {
		got = append(got, k.Name)
	}
	want := []string{"ownership", "customer-events", "referrals", "sales", "transactions", "calls", "order-lines", "invoice-lines", "stock", "accounts", "participants",
		"units", "classifications", "products", "payment-medium-types", "payment-medium-brands", "kpis", "invoices", "customers", "customer-parts"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestPreferences(t *testing.T) {
	for _, c := range []struct {
		headers string // by |
		wait    string // seconds; "-": none
		applied string
	}{
		{"", "-", ""}, {"respond-async", "0", "respond-async"}, {"wait=0", "0", "wait=0"}, {"wait=7", "7", "wait=7"}, {"Wait = 7", "7", "wait=7"},
		{`wait="7"`, "7", "wait=7"}, {"wait=61", "60", "wait=60"}, {"wait=99999999", "60", "wait=60"}, {"respond-async, wait=5", "5", "respond-async, wait=5"},
		{"wait=5|Respond-Async", "5", "respond-async, wait=5"}, {"wait=5, wait=6", "5", "wait=5"}, {"return=minimal; foo=\"bar\", wait=3; x", "3", "wait=3"}, {`handling="a,wait=0"`, "-", ""}, {`handling="a,b", wait=2`, "2", "wait=2"}, {`handling="a\", wait=0"`, "-", ""}, {",,wait=2,", "2", "wait=2"},
		{"wait=-1", "-", ""}, {"wait=1.5", "-", ""}, {"wait", "-", ""}, {"waiting=3", "-", ""}, {"respond-async=no", "-", ""}, {"wait=99999999999999999999", "-", ""},
	} {
		wait, applied := preference(strings.Split(c.headers, "|"))
		got := "-"
		if wait != nil {
			got = strconv.Itoa(int(wait.Seconds()))
		}
		if got != c.wait || applied != c.applied {
			t.Errorf("%s: wait %s, applied %q; want %s, %q", c.headers, got, applied, c.wait, c.applied)
		}
	}
}

func TestMediaTypes(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/json": true, "Application/JSON; charset=UTF-8": true, "application/json; charset=UTF8": true, "application/x-ndjson": true, "text/csv; charset=us-ascii; header=present": true,
		"": false, "text/plain": false, "application/json; charset=utf-16": false, "application/x-www-form-urlencoded": false, "application/": false,
	} {
		if got := parserOf(contentType) != nil; got != want {
			t.Errorf("%q: %t", contentType, got)
		}
	}
}

// Whatever a body is, it is refused with a reason or becomes items of which each has its value or defects, and never the other way round.
func checkItems(t *testing.T, k *Kind, body []byte, items []ingest.Item, err error) {
	t.Helper()
	if err != nil {
		if e := ingest.AsError(err); e.Code != ingest.CodeMalformed && e.Code != ingest.CodeTooLarge {
			t.Fatalf("%q: %v", body, err)
		}
		return
	}
	for i, it := range items {
		switch {
		case len(it.Defects) > 0 && (len(it.Original) == 0 || !bytes.Contains(body, it.Original)):
			t.Fatalf("%q: item %d with defects is kept as %q", body, i, it.Original)
		case len(it.Defects) > 0:
			for _, d := range it.Defects {
				if d.Code == "" || d.Message == "" {
					t.Fatalf("%q: item %d has a defect without words: %+v", body, i, d)
				}
			}
		default:
			if _, err := k.Schema.Avro().AppendEncode(nil, it.Value); err != nil {
				t.Fatalf("%q: item %d cannot be encoded: %v", body, i, err)
			}
		}
	}
}

func fuzzBodies(f *testing.F, p parser, seeds ...string) {
	for _, s := range seeds {
		f.Add(uint8(0), []byte(s))
		f.Add(uint8(3), []byte(s))
		f.Add(uint8(6), []byte(s))
	}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		k := kinds[int(kind)%len(kinds)]
		items, err := p.parse(k, "demo", body)
		checkItems(t, k, body, items, err)
	})
}

func FuzzJSON(f *testing.F) {
	fuzzBodies(f, parseJSON, `[{"ref":"a","user_name":"anna","product_sku":"S","quantity":3},1]`, `{"items":[{"id":"1","clis":["0791"],"date":"2016-02-29"}]}`, `[{"a":"\u00e9\ud83d\ude42"}`)
}

func FuzzNDJSON(f *testing.F) {
	fuzzBodies(f, parseNDJSON, "{\"ref\":1,\"id\":\"1\",\"customer\":77,\"product\":\"P\",\"quantity\":\"1e-10\",\"ordered_on\":\"2016-02-29\"}\n\n{", "{\"properties\":[{\"key\":\"a\"}]}\r\n")
}

func FuzzCSV(f *testing.F) {
	fuzzBodies(f, parseCSV, "ref,user_name,quantity,clear\na,anna,3,\"[\"\"source\"\"]\"\n", "id,date,clis,properties\n1,2016-02-29,\"[\"\"0791\"\"]\",\n", "id,customer,product,quantity,ordered_on\n1,77,P,1.5,2016-02-29")
}

// The same items in three forms are the same items.
func FuzzFormsAgree(f *testing.F) {
	f.Add("a", "anna", "S-1", "3", "true")
	f.Add("", "x\"y,z", "\u00e4", "1e3", "maybe")
	f.Fuzz(func(t *testing.T, ref, user, sku, quantity, has string) {
		fields := []struct{ name, text string }{{"ref", ref}, {"user_name", user}, {"product_sku", sku}, {"quantity", quantity}, {"has_product", has}}
		var members, names, cells []string
		for _, field := range fields {
			if strings.ToValidUTF8(field.text, "") != field.text || strings.ContainsAny(field.text, "\r\n\u2028\u2029") {
				return
			}
			names = append(names, field.name)
			cells = append(cells, `"`+strings.ReplaceAll(field.text, `"`, `""`)+`"`)
			if field.text == "" {
				continue
			}
			text, _ := json.Marshal(field.text)
			switch {
			case field.name == "quantity" && json.Valid([]byte(field.text)) && strings.Trim(field.text, "-0123456789.eE+") == "", field.name == "has_product" && (field.text == "true" || field.text == "false"):
				text = []byte(field.text)
			}
			members = append(members, fmt.Sprintf("%q:%s", field.name, text))
		}
		object := "{" + strings.Join(members, ",") + "}"
		k := kindNamed(t, "ownership")
		var all [][]told
		for media, body := range map[string]string{mediaJSON: "[" + object + "]", mediaNDJSON: object, mediaCSV: strings.Join(names, ",") + "\n" + strings.Join(cells, ",")} {
			items, err := parsers[media].parse(k, "demo", []byte(body))
			if err != nil {
				t.Fatalf("%s %s: %v", media, body, err)
			}
			got := tell(items)
			for i := range got {
				got[i].As = ""
			}
			all = append(all, got)
		}
		for _, other := range all[1:] {
			if diff := cmp.Diff(all[0], other); diff != "" {
				t.Fatalf("%s (-one +another)\n%s", object, diff)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	line := func(i int) string {
		return fmt.Sprintf(`{"ref":"r%d","id":"sale-%d","description":"Sofa","date":"2016-06-22","value":"12.50","mhid":"","clis":["07911 123456"],"lookback":3,"properties":[{"key":"store","value":"Leeds"}]}`, i, i)
	}
	const items = 1000
	bodies := map[string]string{mediaCSV: "ref,id,description,date,value,clis,lookback\n"}
	var objects []string
	for i := range items {
		objects = append(objects, line(i))
		bodies[mediaCSV] += fmt.Sprintf("r%d,sale-%d,Sofa,2016-06-22,12.50,\"[\"\"07911 123456\"\"]\",3\n", i, i)
	}
	bodies[mediaJSON] = "[" + strings.Join(objects, ",") + "]"
	bodies[mediaNDJSON] = strings.Join(objects, "\n")
	for _, media := range []string{mediaJSON, mediaNDJSON, mediaCSV} {
		b.Run(media, func(b *testing.B) {
			body := []byte(bodies[media])
			k := kindNamed(b, "sales")
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				got, err := parsers[media].parse(k, "demo", body)
				if err != nil || len(got) != items || len(got[0].Defects) > 0 {
					b.Fatal(len(got), err, got[0].Defects)
				}
			}
			b.ReportMetric(items*float64(b.N)/b.Elapsed().Seconds(), "items/s")
		})
	}
}
