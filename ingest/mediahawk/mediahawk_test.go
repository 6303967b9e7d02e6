package mediahawk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/schemas"
)

// core stands in for the core: keys are k1 and k2 of the tenant demo and other of another, batches are numbered from 17.
type core struct {
	t        *testing.T
	auth     error
	refuse   error
	sink     error
	find     error
	reports  error
	batches  []schemas.BatchReport
	accepted []*ingest.Batch
	asked    string // of the list
	waited   []string
}

func (c *core) Authenticate(r *http.Request, door string, extra ...ingest.Credential) (*ingest.Caller, error) {
	if door != ingest.DoorMediahawk {
		c.t.Errorf("door %q", door)
	}
	if c.auth != nil {
		return nil, c.auth
	}
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if len(extra) > 0 {
		key = extra[0].ID
	}
	tenant, ok := map[string]string{"k1": "demo", "k2": "demo", "other": "other"}[key]
	if !ok {
		return nil, ingest.NewError(ingest.CodeUnauthenticated, "no")
	}
	return &ingest.Caller{Tenant: tenant, KeyID: key, Door: door}, nil
}

func (c *core) ReadBody(r *http.Request) ([]byte, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(r.Body)
	return b.Bytes(), err
}

func (c *core) Submit(_ context.Context, b *ingest.Batch) (*ingest.Receipt, error) {
	if c.refuse != nil {
		return nil, c.refuse
	}
	if b.Tenant != "demo" || b.Door != ingest.DoorMediahawk || b.Kind != schemas.KindSales || b.Wait == nil || *b.Wait != 0 || b.Lookback == nil {
		c.t.Errorf("batch %+v", b)
	}
	for i, item := range b.Items {
		it := item.Value.(*schemas.Sale)
		if reasons := matching.Check(it); reasons != nil || *it.Lookback != *b.Lookback {
			c.t.Errorf("item %d: %v", i, reasons)
		}
		var key []byte
		if matching.Ordered(it) {
			key = matching.Key("demo", it, "")
		}
		if !bytes.Equal(item.Key, key) || cmp.Diff(item.Ref, it.ID) != "" {
			c.t.Errorf("item %d: key %q, ref %v", i, item.Key, item.Ref)
		}
	}
	c.accepted = append(c.accepted, b)
	return &ingest.Receipt{Number: int64(16 + len(c.accepted)), Pending: len(b.Items), Results: make([]ingest.Result, len(b.Items))}, nil
}

func (c *core) FindBatch(_ context.Context, tenant string, number int64) (*schemas.BatchReport, error) {
	for i := range c.batches {
		if c.batches[i].Number == number && c.batches[i].Tenant == tenant && c.find == nil {
			return &c.batches[i], nil
		}
	}
	if c.find != nil {
		return nil, c.find
	}
	return nil, ingest.NewError(ingest.CodeNotFound, "none")
}

func (c *core) WaitForSink(_ context.Context, topics ...string) error {
	c.waited = topics
	return c.sink
}

func (c *core) DoorBatches(_ context.Context, tenant, door string, offset int64, limit int) ([]schemas.BatchReport, error) {
	if len(c.waited) != 3 {
		c.t.Errorf("asked for batches after waiting for %v", c.waited)
	}
	c.asked = fmt.Sprintf("%s %s %d %d", tenant, door, offset, limit)
	return c.batches, c.reports
}

// serve sends one request to an adapter over c, with the key k1 unless the headers or the path name another.
func serve(c *core, method, path string, header http.Header, body string) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	New(c, c).Register(mux)
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for name, values := range header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	if header == nil {
		r.Header.Set("Authorization", "Bearer k1")
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

// day reads a date.
func day(text string) *time.Time {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err)
	}
	return &t
}

// TestSales has what is accepted, and what becomes of it. The numbers are those of the transcripts in test/conformance.
func TestSales(t *testing.T) {
	one := func(members string) string {
		return `{"lookback":6,"sales":[{"date":"2022-10-01","mhid":"M","clis":["441234567890"],` + members + `}]}`
	}
	sale := func(change func(*schemas.Sale)) []schemas.Sale {
		s := schemas.Sale{Date: day("2022-10-01"), MHID: new("M"), CLIs: &[]string{"441234567890"}, Lookback: new(int32(6))}
		change(&s)
		return []schemas.Sale{s}
	}
	plain := func(*schemas.Sale) {}
	for _, test := range []struct {
		name, body string
		want       []schemas.Sale
	}{
		{"the published example", `{"lookback": 6,"sales": [{"id": "ABC123","description": "1 x Box of stuff","date": "2022-10-01","value": "100","mhid": "DJGHF345","clis": ["441234567890"],"properties": [{"key": "1","value": "JS001"}]}]}`,
			[]schemas.Sale{{ID: new("ABC123"), Description: new("1 x Box of stuff"), Date: day("2022-10-01"), Value: new("100"), MHID: new("DJGHF345"), CLIs: &[]string{"441234567890"},
				Lookback: new(int32(6)), Properties: []schemas.SaleProperty{{Key: new("1"), Value: new("JS001")}}}}},
		{"1: a quoted lookback", strings.Replace(one(`"id":null`), ":6,", `:"6",`, 1), sale(plain)},
		{"1: a fraction of zeros", strings.Replace(one(`"id":null`), ":6,", `:6.00,`, 1), sale(plain)},
		{"1: lookback behind the sales", `{"sales":[{"date":"2022-10-01","mhid":"M","clis":["441234567890"]}],"lookback":6}`, sale(plain)},
		{"2: literal numbers", one(`"id":12345678901234567890,"value":0.10,"properties":[{"key":1,"value":1e3},{"key":"2","value":99.90},{"key":null}]`), sale(func(s *schemas.Sale) {
			s.ID, s.Value = new("12345678901234567890"), new("0.10")
			s.Properties = []schemas.SaleProperty{{Key: new("1"), Value: new("1e3")}, {Key: new("2"), Value: new("99.90")}, {}}
		})},
		{"4: phone only", one(`"mhid":""`), sale(func(s *schemas.Sale) { s.MHID = new("") })},
		{"4: web only", one(`"clis":[]`), sale(func(s *schemas.Sale) { s.CLIs = &[]string{} })},
		{"4: phone only, null", one(`"mhid":null`), sale(func(s *schemas.Sale) { s.MHID = nil })},
		{"4: web only, null", one(`"clis":null`), sale(func(s *schemas.Sale) { s.CLIs = nil })},
		{"5: numbers as sent", one(`"clis":["+44 (0)1234 567890","anonymous","",447700900123,"anonymous"]`), sale(func(s *schemas.Sale) {
			s.CLIs = &[]string{"+44 (0)1234 567890", "anonymous", "", "447700900123", "anonymous"}
		})},
		{"8: leap day", one(`"date":"2024-02-29"`), sale(func(s *schemas.Sale) { s.Date = day("2024-02-29") })},
		{"9: no sales", `{"lookback":6}`, nil},
		{"9: null", `{"lookback":6,"sales":null}`, nil},
		{"9: none", `{"lookback":6,"sales":[]}`, nil},
		{"an empty id is none", one(`"id":""`), sale(plain)},
		{"unknown members", one(`"currency":{"a":[1,{}]}`), sale(plain)},
		{"other names", one(`"ID":"x","Value":1`), sale(plain)},
		{"the last of two members counts, whatever the first was", one(`"date":"x","date":"2022-10-01","id":[],"id":"a","id":"b","clis":[{}],"clis":["1"],"properties":7,"properties":null`),
			sale(func(s *schemas.Sale) { s.ID, s.CLIs = new("b"), &[]string{"1"} })},
		{"the last list counts", `{"sales":[{}],"lookback":0,"lookback":6,"sales":[{"date":"2022-10-01","mhid":"M","clis":["441234567890"]}]}`, sale(plain)},
		{"escapes and a byte order mark", "\ufeff" + one(`"description":"Caf\u00e9 \"\ud83d\ude00\" <&>"`), sale(func(s *schemas.Sale) { s.Description = new(`Café "😀" <&>`) })},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &core{t: t}
			for i, path := range []string{"/rest/v2_0/sales/batches", "/rest/v2_0/sales/batches/", "/sales/batches", "/sales/batches/"} {
				w := serve(c, "POST", path, nil, test.body)
				status := "processing"
				if test.want == nil {
					status = "complete"
				}
				want := fmt.Sprintf(`{"id":%d,"lookback":6,"status":%q,"successes":0,"errors":0}`, 17+i, status)
				if diff := cmp.Diff(want, w.Body.String()); diff != "" || w.Code != 200 || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
					t.Fatalf("%s: status %d, answer (-want +got):\n%s", path, w.Code, diff)
				}
			}
			var got []schemas.Sale
			for _, item := range c.accepted[0].Items {
				got = append(got, *item.Value.(*schemas.Sale))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("sales (-want +got):\n%s", diff)
			}
		})
	}
}

// Of a sale that comes several times in one batch the last counts, in its place; what has no id is never the same.
func TestRepeatedSales(t *testing.T) {
	var sales []string
	for i, id := range []string{`"a"`, `""`, `"b"`, `"a"`, `"A"`, `null`, `"b"`, `"a"`, `7`, `"7"`} {
		sales = append(sales, fmt.Sprintf(`{"id":%s,"description":"%d","date":"2022-10-01","mhid":"M","clis":[]}`, id, i))
	}
	c := &core{t: t}
	if w := serve(c, "POST", "/sales/batches", nil, `{"lookback":1,"sales":[`+strings.Join(sales, ",")+`]}`); w.Code != 200 {
		t.Fatal(w.Body)
	}
	var got []string
	for _, item := range c.accepted[0].Items {
		got = append(got, *item.Value.(*schemas.Sale).Description)
	}
	if diff := cmp.Diff(strings.Split("1 4 5 6 7 9", " "), got); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

// TestRefusals has what is a 400, and stores nothing.
func TestRefusals(t *testing.T) {
	const good = `"date":"2022-10-01","mhid":"M","clis":["1"]`
	one := func(members string) string { return `{"lookback":6,"sales":[{` + good + `},{` + members + `}]}` }
	lookback := func(value string) string { return `{"lookback":` + value + `,"sales":[{` + good + `}]}` }
	errs := func(pairs ...string) string {
		list := []defect{}
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, defect{pairs[i], pairs[i+1]})
		}
		return string(formatError("Validation failed", list))
	}
	const wrongDate, wrongLookback = "must be a date formatted YYYY-MM-DD", "must be a whole number from 1 to 60"
	for _, test := range []struct{ name, body, want string }{
		{"1: 0", lookback("0"), errs("lookback", wrongLookback)},
		{"1: 61", lookback("61"), errs("lookback", wrongLookback)},
		{"1: negative", lookback("-6"), errs("lookback", wrongLookback)},
		{"1: null", lookback("null"), errs("lookback", "is required")},
		{"1: missing", `{"sales":[{` + good + `}]}`, errs("lookback", "is required")},
		{"1: missing without sales", `{}`, errs("lookback", "is required")},
		{"1: a fraction", lookback("6.5"), errs("lookback", wrongLookback)},
		{"1: a quoted word", lookback(`"six"`), errs("lookback", wrongLookback)},
		{"1: true", lookback(`true`), errs("lookback", wrongLookback)},
		{"1: absurd", lookback(`99999999999999999999`), errs("lookback", wrongLookback)},
		{"3: with a time", one(`"date":"2022-10-01T00:00:00Z","mhid":"M","clis":[]`), errs("sales[1].date", wrongDate)},
		{"3: slashes", one(`"date":"01/10/2022","mhid":"M","clis":[]`), errs("sales[1].date", wrongDate)},
		{"3: no such day", one(`"date":"2022-02-30","mhid":"M","clis":[]`), errs("sales[1].date", wrongDate)},
		{"3: short", one(`"date":"2022-1-1","mhid":"M","clis":[]`), errs("sales[1].date", wrongDate)},
		{"3: a number", one(`"date":20221001,"mhid":"M","clis":[]`), errs("sales[1].date", wrongDate)},
		{"3: empty", one(`"date":"","mhid":"M","clis":[]`), errs("sales[1].date", wrongDate)},
		{"4: mhid missing", one(`"date":"2022-10-01","clis":["1"]`), errs("sales[1].mhid", "is required")},
		{"4: clis missing", one(`"date":"2022-10-01","mhid":"M"`), errs("sales[1].clis", "is required")},
		{"4: null", one(`"date":"2022-10-01","mhid":null,"clis":null`), errs("sales[1].mhid", "is empty and so is clis; one of the two must say whose calls to look for")},
		{"4: both missing", one(`"date":"2022-10-01"`), errs("sales[1].mhid", "is required", "sales[1].clis", "is required")},
		{"4: null and missing", one(`"date":"2022-10-01","mhid":null`), errs("sales[1].clis", "is required")},
		{"4: both empty", one(`"date":"2022-10-01","mhid":"","clis":[]`), errs("sales[1].mhid", "is empty and so is clis; one of the two must say whose calls to look for")},
		{"5: no array", one(`"date":"2022-10-01","mhid":"M","clis":"1"`), errs("sales[1].clis", "must be an array of strings")},
		{"5: no strings", one(`"date":"2022-10-01","mhid":"M","clis":["1",null,{}]`), errs("sales[1].clis[1]", "must be a string", "sales[1].clis[2]", "must be a string")},
		{"everything of every sale", `{"lookback":"x","sales":[{"mhid":7,"clis":7},null,[]]}`,
			errs("lookback", wrongLookback, "sales[0].clis", "must be an array of strings", "sales[0].date", "is required", "sales[1]", "must be an object", "sales[2]", "must be an object")},
		{"an earlier one of a repeated sale", `{"lookback":6,"sales":[{"id":"a","date":"x","mhid":"M","clis":[]},{"id":"a",` + good + `}]}`, errs("sales[0].date", wrongDate)},
		{"texts that are none", one(good + `,"id":{},"value":[1],"description":{},"properties":[{"key":[],"value":{}},7]`),
			errs("sales[1].id", "must be a string", "sales[1].value", "must be a string", "sales[1].description", "must be a string",
				"sales[1].properties[0].key", "must be a string", "sales[1].properties[0].value", "must be a string", "sales[1].properties[1]", "must be an object")},
		{"a property that is a boolean", one(`"properties":[{"key":true,"value":false}],"value":"1",` + good),
			errs("sales[1].properties[0].key", "must be a string", "sales[1].properties[0].value", "must be a string")},
		{"properties as an object", one(good + `,"properties":{"key":1}`), errs("sales[1].properties", "must be an array of objects")},
		{"sales as an object", `{"lookback":6,"sales":{}}`, errs("sales", "must be an array")},
		{"an array", `[]`, errs("", "must be an object")},
		{"no JSON", "lookback=6", `{"message":"The request body is not valid JSON: expected a value at line 1, column 1","errors":[]}`},
		{"nothing", "", `{"message":"The request body is not valid JSON: unexpected end, a value is missing at line 1, column 1","errors":[]}`},
		{"cut off", `{"lookback":6,"sales":[{`, `{"message":"The request body is not valid JSON: unexpected end, a } is missing at line 1, column 25","errors":[]}`},
		{"more behind it", `{"lookback":6} {}`, `{"message":"The request body is not valid JSON: unexpected text after the value at line 1, column 16","errors":[]}`},
		{"no UTF-8", "{\"lookback\":6,\"x\":\"\xff\"}", `{"message":"The request body is not UTF-8","errors":[]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &core{t: t}
			w := serve(c, "POST", "/sales/batches", nil, test.body)
			if diff := cmp.Diff(test.want, w.Body.String()); diff != "" || w.Code != 400 {
				t.Errorf("status %d, answer (-want +got):\n%s", w.Code, diff)
			}
			if c.accepted != nil {
				t.Error("it was accepted")
			}
		})
	}
}

// Dates that cannot be kept are refused by name.
func TestDatesThatCannotBeKept(t *testing.T) {
	for date, ok := range map[string]bool{"1899-12-31": false, "1900-01-01": true, "2261-12-31": true, "2262-01-01": false, "0000-01-01": false, "9999-12-31": false} {
		w := serve(&core{t: t}, "POST", "/sales/batches", nil, `{"lookback":6,"sales":[{"date":"`+date+`","mhid":"M","clis":[]}]}`)
		if got := w.Code == 200; got != ok || !ok && !strings.Contains(w.Body.String(), `"field":"sales[0].date"`) {
			t.Errorf("%s: %d %s", date, w.Code, w.Body)
		}
	}
}

func TestAnswers(t *testing.T) {
	busy := &ingest.Error{Code: ingest.CodeBusy, Message: "later", Index: -1, RetryAfter: time.Second}
	months := int32(12)
	batches := []schemas.BatchReport{
		{Number: 5, Tenant: "demo", Door: ingest.DoorMediahawk, Lookback: &months, Items: 4, Processed: 1, Unprocessed: 1},
		{Number: 4, Tenant: "demo", Door: ingest.DoorMediahawk, Lookback: &months, Items: 4, Processed: 3, Unprocessed: 1},
		{Number: 3, Tenant: "demo", Door: ingest.DoorMediahawk, Lookback: &months, Items: 2, Unprocessed: 2, Failed: true},
		{Number: 2, Tenant: "demo", Door: ingest.DoorV1, Items: 2},
		{Number: 1, Tenant: "other", Door: ingest.DoorMediahawk, Lookback: &months},
	}
	const (
		first = `{"id":5,"lookback":12,"status":"processing","successes":1,"errors":1}`
		good  = `{"lookback":6,"sales":[{"id":"a","date":"2022-10-01","mhid":"M","clis":[]},{"id":"a","date":"2022-10-01","mhid":"M","clis":[]}]}`
		none  = `{"message":"There is no such batch","errors":[]}`
	)
	refused := func(message string) string { return string(formatError(message, nil)) }
	bearer := func(key string) http.Header { return http.Header{"Authorization": {"Bearer " + key}} }
	json := func(contentType string) http.Header {
		return http.Header{"Authorization": {"Bearer k1"}, "Content-Type": {contentType}}
	}
	for _, test := range []struct {
		name         string
		core         core
		method, path string
		header       http.Header
		body         string
		status       int
		want         string
		allow, retry string
		asked        string
	}{
		{name: "a batch at work", path: "/sales/batches/5", status: 200, want: first},
		{name: "the same, in the longer path", path: "/rest/v2_0/sales/batches/5/", status: 200, want: first},
		{name: "complete", path: "/sales/batches/4", status: 200, want: `{"id":4,"lookback":12,"status":"complete","successes":3,"errors":1}`},
		{name: "failed", path: "/sales/batches/3", status: 200, want: `{"id":3,"lookback":12,"status":"failed","successes":0,"errors":2}`},
		{name: "of another door", path: "/sales/batches/2", status: 404, want: none},
		{name: "another tenant's", path: "/sales/batches/1", status: 404, want: none},
		{name: "unknown", path: "/sales/batches/99", status: 404, want: none},
		{name: "no number", path: "/sales/batches/abc", status: 404, want: none},
		{name: "the sink lags", core: core{find: busy}, path: "/sales/batches/5", status: 503, retry: "1", want: refused("later")},
		{name: "the list", core: core{batches: batches[:2]}, path: "/sales/batches", status: 200, asked: "demo mediahawk 0 100",
			want: `[` + first + `,{"id":4,"lookback":12,"status":"complete","successes":3,"errors":1}]`},
		{name: "an empty list", core: core{batches: []schemas.BatchReport{}}, path: "/rest/v2_0/sales/batches/?offset=7&limit=3", status: 200, asked: "demo mediahawk 7 3", want: `[]`},
		{name: "a large limit", path: "/sales/batches?limit=1001", status: 200, asked: "demo mediahawk 0 1000", want: "*"},
		{name: "absurd numbers", path: "/sales/batches?limit=99999999999999999999&offset=99999999999999999999", status: 200, asked: "demo mediahawk 9223372036854774807 1000", want: "*"},
		{name: "empty parameters", path: "/sales/batches?limit=&offset=", status: 200, asked: "demo mediahawk 0 100", want: "*"},
		{name: "parameters that cannot be read", path: "/sales/batches?limit=%zz", status: 400, want: `{"message":"Validation failed","errors":[{"field":"query","message":"must be well encoded: name=value pairs with & between them"}]}`},
		{name: "limit 0", path: "/sales/batches?limit=0", status: 200, asked: "demo mediahawk 0 0", want: "*"},
		{name: "negative", path: "/sales/batches?limit=-1&offset=-1", status: 400,
			want: `{"message":"Validation failed","errors":[{"field":"offset","message":"must be a whole number of at least 0"},{"field":"limit","message":"must be a whole number of at least 0"}]}`},
		{name: "no numbers", path: "/sales/batches?limit=ten&offset=1.5", status: 400,
			want: `{"message":"Validation failed","errors":[{"field":"offset","message":"must be a whole number of at least 0"},{"field":"limit","message":"must be a whole number of at least 0"}]}`},
		{name: "the sink lags behind the list", core: core{sink: busy}, path: "/sales/batches", status: 503, retry: "1", want: refused("later")},
		{name: "no ClickHouse", core: core{reports: errors.New("secret")}, path: "/sales/batches", status: 503, retry: "1", asked: "demo mediahawk 0 100", want: refused("The batches cannot be read at the moment")},

		{name: "no key", header: http.Header{}, path: "/sales/batches", status: 401, want: refused("no")},
		{name: "a key in the query", header: http.Header{}, path: "/sales/batches/5?api_key=k1", status: 200, want: first},
		{name: "a wrong key in the query", header: http.Header{}, path: "/sales/batches/5?api_key=x", status: 401, want: refused("no")},
		{name: "one key in both", header: bearer("k1"), path: "/sales/batches/5?api_key=k1", status: 200, want: first},
		{name: "two keys of one tenant", header: bearer("k2"), path: "/sales/batches/5?api_key=k1", status: 200, want: first},
		{name: "two keys of two tenants", header: bearer("other"), path: "/sales/batches/5?api_key=k1", status: 401, want: refused("the two API keys are not of one account")},
		{name: "a wrong token beside a good key", header: bearer("x"), path: "/sales/batches/5?api_key=k1", status: 401, want: refused("no")},
		{name: "a wrong key beside a good token", header: bearer("k1"), path: "/sales/batches/5?api_key=x", status: 401, want: refused("no")},
		{name: "an empty key beside a good token", header: bearer("k1"), path: "/sales/batches/5?api_key=.", status: 401, want: refused("the API key is not valid")},
		{name: "no key for a POST", header: http.Header{}, method: "POST", path: "/sales/batches", body: "{", status: 401, want: refused("no")},
		{name: "another address", core: core{auth: ingest.NewError(ingest.CodeForbidden, "address")}, path: "/sales/batches", status: 403, want: refused("address")},
		{name: "too often", core: core{auth: &ingest.Error{Code: ingest.CodeRateLimited, Message: "too often", Index: -1, RetryAfter: time.Second}}, path: "/sales/batches", status: 429, retry: "1", want: refused("too often")},

		{name: "JSON by its name", header: json("Application/JSON; charset=UTF-8"), method: "POST", path: "/sales/batches", body: good, status: 200, want: `{"id":17,"lookback":6,"status":"processing","successes":0,"errors":0}`},
		{name: "a form", header: json("application/x-www-form-urlencoded"), method: "POST", path: "/sales/batches", body: good, status: 415, want: refused("Content-Type must be application/json, in UTF-8")},
		{name: "Latin-1", header: json("application/json; charset=iso-8859-1"), method: "POST", path: "/sales/batches", body: good, status: 415, want: refused("Content-Type must be application/json, in UTF-8")},
		{name: "busy", core: core{refuse: busy}, method: "POST", path: "/sales/batches", body: good, status: 503, retry: "1", want: refused("later")},
		{name: "one sale too large, by its place in the request", core: core{refuse: &ingest.Error{Code: ingest.CodeTooLarge, Message: "too large", Index: 0}}, method: "POST", path: "/sales/batches", body: good, status: 413,
			want: `{"message":"too large","errors":[{"field":"sales[1]","message":"too large"}]}`},
		{name: "too many sales", method: "POST", path: "/sales/batches", body: `{"sales":[` + strings.Repeat("{},", ingest.MaxItems+1) + `]}`, status: 413, want: refused("The request has more than 10000 sales")},

		{name: "another method of the list", method: "PUT", path: "/sales/batches/", status: 405, allow: "GET, HEAD, POST", want: refused("There is no operation PUT /sales/batches/")},
		{name: "another method of a batch", method: "POST", path: "/rest/v2_0/sales/batches/5", status: 405, allow: "GET, HEAD", want: refused("There is no operation POST /rest/v2_0/sales/batches/5")},
		{name: "below a batch", path: "/sales/batches/5/errors", status: 404, want: refused("There is no operation GET /sales/batches/5/errors")},
		{name: "a longer name", path: "/sales/batches5", status: 404, want: refused("There is no operation GET /sales/batches5")},
		{name: "calls", path: "/rest/v2_0/calls", status: 404, want: refused("There is no operation GET /rest/v2_0/calls")},
		{name: "sales", path: "/sales", status: 404, want: refused("There is no operation GET /sales")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.method == "" {
				test.method = "GET"
			}
			if test.core.batches == nil {
				test.core.batches = batches
			}
			test.core.t = t
			w := serve(&test.core, test.method, test.path, test.header, test.body)
			if diff := cmp.Diff(test.want, w.Body.String()); diff != "" && test.want != "*" || w.Code != test.status {
				t.Errorf("status %d, answer (-want +got):\n%s", w.Code, diff)
			}
			authenticate := ""
			if test.status == 401 {
				authenticate = "Bearer"
			}
			if h := w.Header(); h.Get("Allow") != test.allow || h.Get("Retry-After") != test.retry || h.Get("WWW-Authenticate") != authenticate || h.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("headers %v", h)
			}
			if test.core.asked != test.asked {
				t.Errorf("asked for %q, want %q", test.core.asked, test.asked)
			}
		})
	}
}

// A request that is repeated with its Idempotency-Key finds outcomes in its receipt.
func TestReceiptOfARepeatedRequest(t *testing.T) {
	matched := ingest.Result{Processed: &schemas.SaleResult{}}
	unmatched := ingest.Result{Reasons: []schemas.Reason{{Code: schemas.CodeNoMatch}}}
	broken := ingest.Result{Reasons: []schemas.Reason{{Code: schemas.CodeInternalError}}}
	for _, test := range []struct {
		want    string
		results []ingest.Result
	}{
		{`"status":"processing","successes":1,"errors":1`, []ingest.Result{matched, unmatched, {}}},
		{`"status":"complete","successes":2,"errors":1`, []ingest.Result{matched, matched, unmatched}},
		{`"status":"complete","successes":0,"errors":2`, []ingest.Result{broken, unmatched}},
		{`"status":"failed","successes":0,"errors":2`, []ingest.Result{broken, broken}},
		{`"status":"processing","successes":0,"errors":1`, []ingest.Result{broken, {}}},
		{`"status":"complete","successes":0,"errors":0`, nil},
	} {
		got := string(formatReceipt(&ingest.Receipt{Number: 7, Results: test.results}, 6))
		if want := `{"id":7,"lookback":6,` + test.want + `}`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// FuzzParse reads anything: it must not panic, what has no defect must pass the check and name no id twice, and every answer is JSON.
func FuzzParse(f *testing.F) {
	for _, body := range []string{
		`{"lookback": 6,"sales": [{"id": "ABC123","description": "1 x Box of stuff","date": "2022-10-01","value": "100","mhid": "DJGHF345","clis": ["441234567890"],"properties": [{"key": "1","value": "JS001"}]}]}`,
		`{"lookback":"6","sales":[{"id":7,"date":"2024-02-29","value":1e3,"mhid":"","clis":["anonymous",447700900123],"properties":[{"key":1,"value":99.90},{}]},{"id":"7","date":"2024-02-29","mhid":"M","clis":[]}]}`,
		`{"lookback":6.0,"sales":[null,{"date":"2022-02-30","clis":{},"properties":7,"id":[]},{"date":"0000-01-01","mhid":"\ud800","clis":[null]}],"sales":[]}`,
		`{"lookback":61}`, `[]`, ``,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		u, err := parse(body)
		if err != nil {
			if !json.Valid(formatError(ingest.AsError(err).Message, nil)) {
				t.Error(err)
			}
			return
		}
		if u.defects != nil {
			if b := formatError("x", u.defects); !json.Valid(b) {
				t.Errorf("not JSON: %s", b)
			}
			return
		}
		ids := map[string]bool{}
		for i, s := range u.sales {
			if reasons := matching.Check(&s.Sale); reasons != nil || *s.Lookback != u.lookback {
				t.Errorf("sale %d: %v", i, reasons)
			}
			if s.ID != nil {
				if ids[*s.ID] || *s.ID == "" {
					t.Errorf("sale %d has the id %q", i, *s.ID)
				}
				ids[*s.ID] = true
			}
		}
	})
}

// BenchmarkParse reads batches of 1,000 sales as they are published.
func BenchmarkParse(b *testing.B) {
	sales := make([]string, 1000)
	for i := range sales {
		sales[i] = fmt.Sprintf(`{"id":"INV-%07d","description":"Annual service","date":"2023-02-%02d","value":"249.99","mhid":"QX81LLP2","clis":["4477009%05d","01632960001"],"properties":[{"key":1,"value":"north"}]}`, i, 1+i%28, i)
	}
	body := `{"lookback":12,"sales":[` + strings.Join(sales, ",") + `]}`
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		u, err := parse(body)
		if err != nil || u.defects != nil || len(u.items("demo")) != len(sales) {
			b.Fatal(err, u)
		}
	}
	b.ReportMetric(float64(b.N)*float64(len(sales))/b.Elapsed().Seconds(), "sales/s")
}
