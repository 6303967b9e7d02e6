package helloid

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

// core stands in for the core: it decides with the real rules, at once.
type core struct {
	t        *testing.T
	auth     error
	refuse   error
	sink     error
	reports  error
	pending  int
	fail     map[int]bool // items that end in an internal error
	state    map[string]*schemas.OwnershipState
	accepted int
	waited   []string
}

func (c *core) Authenticate(r *http.Request, door string, _ ...ingest.Credential) (*ingest.Caller, error) {
	if door != ingest.DoorHelloID {
		c.t.Errorf("door %q", door)
	}
	if c.auth != nil {
		return nil, c.auth
	}
	if user, password, ok := r.BasicAuth(); !ok || user != "key" || password != "secret" {
		return nil, ingest.NewError(ingest.CodeUnauthenticated, "no")
	}
	return &ingest.Caller{Tenant: "demo", KeyID: "key", Door: door}, nil
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
	c.accepted++
	if c.state == nil {
		c.state = map[string]*schemas.OwnershipState{}
	}
	receipt := &ingest.Receipt{Number: 17, Pending: c.pending, Results: make([]ingest.Result, len(b.Items))}
	for i, item := range b.Items {
		it := item.Value.(*schemas.Ownership)
		key := string(item.Key)
		if key != string(upserts.Key("demo", it)) {
			c.t.Errorf("key %q", key)
		}
		receipt.Results[i].Index = i
		if c.fail[i] {
			receipt.Results[i].Reasons = []schemas.Reason{{Code: schemas.CodeInternalError, Message: "panic: secret"}}
			continue
		}
		res, next := upserts.Decide(it, c.state[key], int64(i))
		c.state[key] = next
		receipt.Results[i].Processed = &res
	}
	return receipt, nil
}

func (c *core) WaitForSink(_ context.Context, topics ...string) error {
	c.waited = topics
	return c.sink
}

func (c *core) Ownership(_ context.Context, tenant, sku string) ([]schemas.OwnershipReport, error) {
	if tenant != "demo" || c.waited == nil {
		c.t.Errorf("asked for %q of %q before waiting", sku, tenant)
	}
	if c.reports != nil || sku != "app-01/red ä" {
		return nil, c.reports
	}
	day, ad := time.Date(2021, 11, 5, 0, 0, 0, 0, time.UTC), "<AD>"
	return []schemas.OwnershipReport{
		{UserName: "j.doe", ProductSKU: "APP-01/red Ä", TimeOfApproval: &day, Source: &ad, Quantity: 2},
		{UserName: "k.lee", ProductSKU: "app-01/RED ä", Quantity: 1},
	}, nil
}

// serve sends one request to an adapter over c.
func serve(c *core, method, path string, header http.Header, body string) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	New(c, c).Register(mux)
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for name, values := range header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

func header(contentType string) http.Header {
	h := http.Header{"Authorization": {"Basic a2V5OnNlY3JldA=="}}
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	return h
}

// TestTranscripts plays the requests in testdata: a request (method and path, headers, body) and its answer (status, headers to look at,
// body). Bodies are compared byte by byte, but for blanks outside texts.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(err, "no transcripts")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, sent, body := message(string(archive.Files[0].Data))
			method, path, _ := strings.Cut(first, " ")
			w := serve(&core{t: t}, method, path, sent, body)
			status, wantHeader, want := message(string(archive.Files[1].Data))
			if got := strconv.Itoa(w.Code); got != status {
				t.Errorf("status %s, want %s", got, status)
			}
			wantHeader.Set("Content-Type", "application/json; charset=utf-8")
			for name := range wantHeader {
				if got, want := w.Header().Get(name), wantHeader.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			var b bytes.Buffer
			if err := json.Compact(&b, []byte(want)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(b.String(), w.Body.String()); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// message splits the first line, the headers and the body of a transcript's message.
func message(text string) (first string, header http.Header, body string) {
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	header = http.Header{}
	for _, line := range lines[1:] {
		if name, value, ok := strings.Cut(line, ": "); ok {
			header.Add(name, value)
		}
	}
	return strings.TrimSpace(lines[0]), header, body
}

// owned is an element of an answer to a POST.
func owned(user, sku, date, source string, quantity int) string {
	quote := func(s string) string {
		if s == "" {
			return "null"
		}
		b, _ := json.Marshal(s)
		return string(b)
	}
	return fmt.Sprintf(`{"UserName":%s,"ProductSKU":%s,"TimeOfApproval":%s,"Source":%s,"Quantity":%d}`, quote(user), quote(sku), quote(date), quote(source), quantity)
}

func array(elements ...string) string { return "[" + strings.Join(elements, ",") + "]" }

// TestHardCases has the hard cases that are accepted; the numbers are those of the transcripts in test/conformance.
func TestHardCases(t *testing.T) {
	const batch, csv = "batch/", "csv/"
	tests := []struct {
		name, path, body, want string
	}{
		{"1: days come first", batch, `[{"UserName":"u","ProductSKU":"s","TimeOfApproval":"03-05-2017"}]`, array(owned("u", "s", "03-05-2017", "", 1))},
		{"1: ISO dates", batch, `[{"UserName":"u","ProductSKU":"s","TimeOfApproval":"2019-08-22"}]`, array(owned("u", "s", "22-08-2019", "", 1))},
		{"2: single quotes, bare names, comments, trailing commas, apostrophes", batch,
			"[{'UserName':\"O'Brien\", productSKU:'it\\'s \"x\"', /* c */ Source:null,},// end\n]", array(owned("O'Brien", `it's "x"`, "", "", 1))},
		{"2: the last of two members counts", batch, `[{"UserName":"a","username":"b","PRODUCTSKU":"s","Source":null,"source":"AD","TimeOfApproval":"01-01-2020","timeOfApproval":null}]`, array(owned("b", "s", "", "AD", 1))},
		{"3: false takes away", batch, `[{"UserName":"u","ProductSKU":"s"},{"UserName":"u","ProductSKU":"s","Hasproduct":false,"Quantity":5}]`, array(owned("u", "s", "", "", 1), owned("u", "s", "", "", 0))},
		{"3: absent is no false, and 0 is not absent", batch, `[{"UserName":"u","ProductSKU":"s","IncreaseQuantityBy":0},{"UserName":"u","ProductSKU":"s","HasProduct":null}]`, array(owned("u", "s", "", "", 0), owned("u", "s", "", "", 1))},
		{"4: quoted values, and numbers for texts", batch, `[{"UserName":12.50,"ProductSKU":true,"HasProduct":"true","Quantity":"2"},{"UserName":"u","ProductSKU":"s","HasProduct":1,"Quantity":" 3 "}]`, array(owned("12.50", "true", "", "", 2), owned("u", "s", "", "", 3))},
		{"5: in order", batch, `[{"UserName":"u","ProductSKU":"s","IncreaseQuantityBy":1},{"UserName":"u","ProductSKU":"s","IncreaseQuantityBy":-1}]`, array(owned("u", "s", "", "", 1), owned("u", "s", "", "", 0))},
		{"7: CRLF, a BOM, a blank last line, quotes, four columns, TRUE", csv, "\ufeff\"Doe, J.\",SKU, 01-02-2020 , AD\r\nk.lee,SKU,,,TRUE,\r\nk.lee,SKU,,,, 4\r\n\r\n   \r\n",
			array(owned("Doe, J.", "SKU", "01-02-2020", "AD", 1), owned("k.lee", "SKU", "", "", 1), owned("k.lee", "SKU", "", "", 5))},
		{"7: blanks around quotes, line ends in them", csv, "u, \"S\" ,05-11-2021,\"a\r\n\"\"b\"\"\"\t,true\r\n", array(owned("u", "S", "05-11-2021", "a\r\n\"b\"", 1))},
		{"7: two columns", csv, `"Doe, J.",SKU`, array(owned("Doe, J.", "SKU", "", "", 1))},
		{"8: letters do not count, the spelling is echoed", batch, `[{"UserName":"User","ProductSKU":"A1234"},{"UserName":"USER","ProductSKU":"a1234"}]`, array(owned("User", "A1234", "", "", 1), owned("USER", "a1234", "", "", 2))},
		{"9: not below 0", batch, `[{"UserName":"u","ProductSKU":"s","IncreaseQuantityBy":-3},{"UserName":"u","ProductSKU":"s"}]`, array(owned("u", "s", "", "", 0), owned("u", "s", "", "", 1))},
		{"absent keeps, null forgets", batch, `[{"UserName":"u","ProductSKU":"s","Source":"AD","TimeOfApproval":"01-02-2020"},{"UserName":"u","ProductSKU":"s"},{"UserName":"u","ProductSKU":"s","Source":null,"TimeOfApproval":null}]`,
			array(owned("u", "s", "01-02-2020", "AD", 1), owned("u", "s", "01-02-2020", "AD", 2), owned("u", "s", "", "", 3))},
		{"unknown members", batch, `[{"UserName":"u","ProductSKU":"s","Nonsense":{"a":[1,{}]}}]`, array(owned("u", "s", "", "", 1))},
		{"no HTML escaping", batch, `[{"UserName":"<a&b>","ProductSKU":"s"}]`, `[{"UserName":"<a&b>","ProductSKU":"s","TimeOfApproval":null,"Source":null,"Quantity":1}]`},
		{"nothing", batch, `[]`, `[]`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			contentType := "application/json"
			if test.path == csv {
				contentType = "text/csv; charset=UTF-8"
			}
			for _, path := range []string{test.path, strings.TrimSuffix(test.path, "/")} {
				w := serve(&core{t: t}, "POST", Base+"/"+path, header(contentType), test.body)
				if diff := cmp.Diff(test.want, w.Body.String()); diff != "" || w.Code != http.StatusOK {
					t.Errorf("%s: status %d, answer (-want +got):\n%s", path, w.Code, diff)
				}
			}
		})
	}
}

// TestRefusals has what is a 400, and applies nothing.
func TestRefusals(t *testing.T) {
	one := func(members string) string { return `{"UserName":"u","ProductSKU":"s",` + members + `}` }
	tests := []struct {
		name, path, contentType, body, want string
	}{
		{"1: no such day", "", "application/json", one(`"TimeOfApproval":"31-02-2020"`), `"errors":[{"index":0,"field":"TimeOfApproval",`},
		{"1: slashes", "", "application/json", one(`"TimeOfApproval":"22/08/2019"`), `"errors":[{"index":0,"field":"TimeOfApproval",`},
		{"1: short", "", "application/json", one(`"TimeOfApproval":"1-5-2019"`), `"errors":[{"index":0,"field":"TimeOfApproval",`},
		{"1: with a time", "", "application/json", one(`"TimeOfApproval":"2019-08-22T10:00:00"`), `"errors":[{"index":0,"field":"TimeOfApproval",`},
		{"1: a year that cannot be kept", "", "application/json", one(`"TimeOfApproval":"01-01-2262"`), `"errors":[{"index":0,"field":"TimeOfApproval",`},
		{"4: a fraction", "", "application/json", one(`"Quantity":2.5`), `"errors":[{"index":0,"field":"Quantity","message":"Quantity must be a whole number"}]`},
		{"4: absurd", "", "application/json", one(`"Quantity":99999999999999999999`), `"errors":[{"index":0,"field":"Quantity","message":"Quantity is out of range"}]`},
		{"4: a list", "", "application/json", one(`"Source":[]`), `"errors":[{"index":0,"field":"Source","message":"Source must be a text"}]`},
		{"6: an object to batch", "/batch", "application/json", one(`"x":1`), `"resultMsg":"The request body is malformed: an array of objects is expected"`},
		{"6: an array to single", "", "application/json", `[]`, `"resultMsg":"The request body is malformed: one object is expected; lists go to batch/"`},
		{"6: a number to single", "", "application/json", `7`, `"resultMsg":"The request body is malformed: one object`},
		{"7: seven columns", "/csv", "text/csv", "u,s\nu,s,,,,,", `"errors":[{"index":1,"field":"","message":"The record has 7 columns, at most 6 are allowed"}]`},
		{"7: the names of columns", "/csv", "text/csv", "u,s,x,,2,1.5", `"errors":[{"index":0,"field":"DateOfApproval","message":"DateOfApproval must be a date formatted dd-MM-yyyy"},{"index":0,"field":"HasProduct","message":"HasProduct must be true or false"},{"index":0,"field":"IncreaseQuantityBy","message":"IncreaseQuantityBy must be a whole number"}]`},
		{"7: one column", "/csv", "text/csv", "u", `"errors":[{"index":0,"field":"ProductSKU","message":"ProductSKU is required"}]`},
		{"7: a broken quote", "/csv", "text/csv", "\"u,s", `"resultMsg":"The request body is malformed: `},
		{"no members", "", "application/json", `{}`, `"errors":[{"index":0,"field":"UserName","message":"UserName is required"},{"index":0,"field":"ProductSKU","message":"ProductSKU is required"}]`},
		{"no body", "", "application/json", "", `"resultMsg":"The request body is malformed: it is empty"`},
		{"no JSON", "", "application/json", `{"UserName"`, `"resultMsg":"The request body is malformed: expected : after a name at line 1, column 12"`},
		{"something behind it", "", "application/json", one(`"x":1`) + `{}`, `"resultMsg":"The request body is malformed: unexpected text after the value`},
		{"not UTF-8", "", "application/json", "{\"UserName\":\"\xff\"}", `"resultMsg":"The request body is malformed: it is not UTF-8"`},
		{"too deep", "", "application/json", `{"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, `"resultMsg":"The request body is malformed: nested deeper than 64 levels`},
		{"CSV sent as JSON", "", "text/csv", "{}", `"resultMsg":"Content-Type must be application/json, in UTF-8"`},
		{"JSON sent as CSV", "/csv", "application/json", "{}", `"resultMsg":"Content-Type must be text/csv, in UTF-8"`},
		{"no content type", "", "", "{}", `"resultMsg":"Content-Type must be`},
		{"another charset", "", "application/json; charset=utf-16", "{}", `"resultMsg":"Content-Type must be`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &core{t: t}
			w := serve(c, "POST", Base+test.path, header(test.contentType), test.body)
			if w.Code != http.StatusBadRequest || !strings.HasPrefix(w.Body.String(), `{"resultCode":400,"resultMsg":"`) || !strings.Contains(w.Body.String(), test.want) {
				t.Errorf("status %d, want %s in\n%s", w.Code, test.want, w.Body)
			}
			if c.accepted > 0 {
				t.Error("something was accepted")
			}
		})
	}
}

// TestTroubles has the other statuses.
func TestTroubles(t *testing.T) {
	busy := &ingest.Error{Code: ingest.CodeBusy, Message: "later", Index: -1, RetryAfter: time.Second}
	record := `[{"UserName":"u","ProductSKU":"s"},{"UserName":"v","ProductSKU":"s"}]`
	tests := []struct {
		name       string
		core       core
		method     string
		path       string
		body       string
		status     int
		want       string
		retryAfter string
		location   string
		allow      string
	}{
		{name: "pending", core: core{pending: 1}, status: 202, location: "/v1/batches/17", want: `{"resultCode":202,"resultMsg":"The request was accepted and is being processed; do not send it again. Its outcomes will be found at /v1/batches/17"}`},
		{name: "internal error", core: core{fail: map[int]bool{1: true}}, status: 500, location: "/v1/batches/17",
			want: `{"resultCode":500,"resultMsg":"Some of the 2 records could not be processed; the others were, so do not send them again. The outcomes are found at /v1/batches/17","errors":[{"index":1,"field":"","message":"The record was accepted, but could not be processed"}]}`},
		{name: "busy", core: core{refuse: busy}, status: 503, retryAfter: "1", want: `{"resultCode":503,"resultMsg":"later"}`},
		{name: "one record too large", core: core{refuse: &ingest.Error{Code: ingest.CodeTooLarge, Message: "too large", Index: 1}}, status: 413, want: `{"resultCode":413,"resultMsg":"too large","errors":[{"index":1,"field":"","message":"too large"}]}`},
		{name: "too many records", body: "[" + strings.Repeat("{},", ingest.MaxItems+1) + "]", status: 413, want: `{"resultCode":413,"resultMsg":"The request has more than 10000 records"}`},
		{name: "wrong address", core: core{auth: ingest.NewError(ingest.CodeForbidden, "address")}, status: 401, want: `{"resultCode":401,"resultMsg":"Unauthorized"}`},
		{name: "too often", core: core{auth: &ingest.Error{Code: ingest.CodeRateLimited, Message: "too often", Index: -1, RetryAfter: time.Second}}, status: 429, retryAfter: "1", want: `{"resultCode":429,"resultMsg":"too often"}`},
		{name: "nobody owns it", method: "GET", path: "/nothing/", status: 404, want: `{"resultCode":404,"resultMsg":"The specified product ownership was not found"}`},
		{name: "a reserved word", method: "GET", path: "/CSV", status: 404, want: `{"resultCode":404,"resultMsg":"CSV is no SKU: the word is reserved"}`},
		{name: "the sink lags", core: core{sink: busy}, method: "GET", path: "/app", status: 503, retryAfter: "1", want: `{"resultCode":503,"resultMsg":"later"}`},
		{name: "no ClickHouse", core: core{reports: errors.New("secret")}, method: "GET", path: "/app", status: 503, retryAfter: "1", want: `{"resultCode":503,"resultMsg":"The ownership cannot be read at the moment"}`},
		{name: "another method of a SKU", method: "DELETE", path: "/app", status: 405, allow: "GET, HEAD", want: `{"resultCode":405,"resultMsg":"There is no operation DELETE /api/v1/productownership/app"}`},
		{name: "the same, with a slash", method: "PUT", path: "/a%2Fb/", status: 405, allow: "GET, HEAD", want: `{"resultCode":405,"resultMsg":"There is no operation PUT /api/v1/productownership/a/b/"}`},
		{name: "another method of single", method: "PUT", path: "/", status: 405, allow: "POST", want: `{"resultCode":405,"resultMsg":"There is no operation PUT /api/v1/productownership/"}`},
		{name: "the same, without a slash", method: "GET", path: "", status: 405, allow: "POST", want: `{"resultCode":405,"resultMsg":"There is no operation GET /api/v1/productownership"}`},
		{name: "another method of batch", method: "GET", path: "/batch/", status: 405, allow: "POST", want: `{"resultCode":405,"resultMsg":"There is no operation GET /api/v1/productownership/batch/"}`},
		{name: "another method of csv", method: "GET", path: "/csv", status: 405, allow: "POST", want: `{"resultCode":405,"resultMsg":"There is no operation GET /api/v1/productownership/csv"}`},
		{name: "no such path", method: "GET", path: "/app/more", status: 404, want: `{"resultCode":404,"resultMsg":"There is no operation GET /api/v1/productownership/app/more"}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.method == "" {
				test.method, test.path = "POST", "/batch"
			}
			if test.body == "" {
				test.body = record
			}
			test.core.t = t
			w := serve(&test.core, test.method, Base+test.path, header("application/json"), test.body)
			if diff := cmp.Diff(test.want, w.Body.String()); diff != "" || w.Code != test.status {
				t.Errorf("status %d, answer (-want +got):\n%s", w.Code, diff)
			}
			if w.Header().Get("Allow") != test.allow || w.Header().Get("Retry-After") != test.retryAfter || w.Header().Get("Location") != test.location {
				t.Errorf("headers %v", w.Header())
			}
		})
	}
}

// FuzzParse reads anything as each of the three bodies: it must not panic, and what has no defect must pass the check.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		_, _, body := message(string(archive.Files[0].Data))
		f.Add(uint8(0), body)
		f.Add(uint8(1), body)
		f.Add(uint8(2), body)
	}
	f.Add(uint8(1), "\ufeff[{UserName:'O\\'Brien',\"productsku\":1e3,/* */HasProduct:'TRUE',Quantity:\" 2\",},]// end")
	f.Add(uint8(2), "\ufeff\"Doe, J.\",SKU, 01-02-2020 , AD\r\nk.lee,SKU,,,TRUE,\r\n")
	f.Fuzz(func(t *testing.T, n uint8, body string) {
		parse := []func(string) ([]ingest.Item, error){parseSingle, parseBatch, parseCSV}[n%3]
		items, err := parse(body)
		if err != nil {
			if !json.Valid(formatError(400, ingest.AsError(err).Message, nil)) {
				t.Error(err)
			}
			return
		}
		for i := range items {
			it, ok := items[i].Value.(*schemas.Ownership)
			if ok == (len(items[i].Defects) > 0) {
				t.Errorf("item %d: %+v", i, items[i])
			}
			if ok && upserts.Check(it) != nil {
				t.Errorf("item %d: %v", i, upserts.Check(it))
			}
		}
		if b := formatError(400, "x", defectsOf(items)); !json.Valid(b) {
			t.Errorf("not JSON: %s", b)
		}
	})
}
