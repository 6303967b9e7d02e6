package avon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
)

// core stands in for the core: it judges with the real rules, at once.
type core struct {
	t       *testing.T
	auth    error
	refuse  error
	pending bool
	fail    map[int]bool // transactions that end in an internal error
	got     []*ingest.Batch
}

func (c *core) Authenticate(r *http.Request, door string, _ ...ingest.Credential) (*ingest.Caller, error) {
	if door != ingest.DoorAvon {
		c.t.Errorf("door %q", door)
	}
	if c.auth != nil {
		return nil, c.auth
	}
	if user, password, ok := r.BasicAuth(); !ok || user != "key" || password != "secret" {
		return nil, ingest.NewError(ingest.CodeUnauthenticated, "the API key is not valid")
	}
	return &ingest.Caller{Tenant: "demo", KeyID: "key", Door: door}, nil
}

func (c *core) ReadBody(r *http.Request) ([]byte, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(r.Body)
	return b.Bytes(), err
}

func (c *core) Submit(_ context.Context, b *ingest.Batch) (*ingest.Receipt, error) {
	if b.Tenant != "demo" || b.KeyID != "key" || b.Door != ingest.DoorAvon || b.Kind != schemas.KindTransactions || len(b.Items) == 0 {
		c.t.Errorf("batch %+v", b)
	}
	if c.refuse != nil {
		return nil, c.refuse
	}
	c.got = append(c.got, b)
	receipt := &ingest.Receipt{Number: 17, Results: make([]ingest.Result, len(b.Items))}
	for i, item := range b.Items {
		r := &receipt.Results[i]
		r.Index = i
		switch reasons := validation.CheckTransaction(item.Value.(*schemas.Transaction)); {
		case reasons != nil || item.Defects != nil || item.Key != nil:
			c.t.Errorf("item %d was submitted: %v, %v, key %q", i, reasons, item.Defects, item.Key)
		case c.pending:
			receipt.Pending++
		case c.fail[i]:
			r.Reasons = []schemas.Reason{{Code: schemas.CodeInternalError, Message: "panic: secret"}}
		default:
			r.Processed = &schemas.TransactionResult{}
		}
	}
	return receipt, nil
}

// serve sends one request to an adapter over c, with the test's key unless there is another.
func serve(c *core, method, path string, header http.Header, body string) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	New(c).Register(mux)
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.SetBasicAuth("key", "secret")
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

// post sends a body of a media type to the documented route.
func post(c *core, mediaType, body string) *httptest.ResponseRecorder {
	return serve(c, "POST", Path, http.Header{"Content-Type": {mediaType}}, body)
}

// transactions are those that were submitted, of all batches.
func (c *core) transactions() []*schemas.Transaction {
	all := []*schemas.Transaction{}
	for _, b := range c.got {
		for _, item := range b.Items {
			all = append(all, item.Value.(*schemas.Transaction))
		}
	}
	return all
}

// TestTranscripts plays the requests in testdata: pairs of a request (method and path, headers, body) and an answer (status, headers to look
// at, body, compared byte by byte), and what was submitted: the members of each transaction, in JSON.
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
			var c *core
			var w *httptest.ResponseRecorder
			for i, f := range archive.Files {
				switch text := string(f.Data); f.Name {
				case "request":
					first, header, body := message(text)
					method, path, _ := strings.Cut(first, " ")
					c = &core{t: t}
					w = serve(c, method, path, header, body)
				case "answer":
					status, header, body := message(text)
					if got := strconv.Itoa(w.Code); got != status {
						t.Errorf("file %d: status %s, want %s", i, got, status)
					}
					for name := range header {
						if got, want := w.Header().Get(name), header.Get(name); got != want {
							t.Errorf("file %d: %s: %q, want %q", i, name, got, want)
						}
					}
					if diff := cmp.Diff(body, strings.ReplaceAll(w.Body.String(), "\r\n", "\n")); diff != "" {
						t.Errorf("file %d: answer (-want +got):\n%s", i, diff)
					}
				case "submitted":
					if diff := cmp.Diff(text, print(c.transactions())); diff != "" {
						t.Errorf("file %d: submitted (-want +got):\n%s", i, diff)
					}
				default:
					t.Fatalf("what is %s?", f.Name)
				}
			}
		})
	}
}

// message splits the first line, the headers and the body of a transcript's message. The body's last line break does not belong to it.
func message(text string) (first string, header http.Header, body string) {
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimSuffix(head, "\n"), "\n")
	header = http.Header{}
	for _, line := range lines[1:] {
		if name, value, ok := strings.Cut(line, ": "); ok {
			header.Add(name, value)
		}
	}
	return strings.TrimSpace(lines[0]), header, strings.TrimSuffix(body, "\n")
}

// print writes transactions, one a line, without the members that are absent.
func print(all []*schemas.Transaction) string {
	var b strings.Builder
	for _, tr := range all {
		b.WriteString("{")
		for i := range members {
			switch p := members[i].at(tr).(type) {
			case **string:
				if *p != nil {
					fmt.Fprintf(&b, " %s=%q", members[i].name, **p)
				}
			case **schemas.Decimal:
				if *p != nil {
					fmt.Fprintf(&b, " %s=%s", members[i].name, *p)
				}
			default:
				if tr.TransactionTime != nil {
					fmt.Fprintf(&b, " %s=%s", members[i].name, tr.TransactionTime.Format("2006-01-02T15:04:05.999999999Z07:00"))
				}
			}
		}
		b.WriteString(" }\n")
	}
	return b.String()
}

// TestRefusals: every error of the core has the partner's form, in each format.
func TestRefusals(t *testing.T) {
	const body = `{"financialTransactions":[{"state":"ON"}]}`
	for _, c := range []struct {
		name string
		core core
		code string
		want int
	}{
		{"no key", core{auth: ingest.NewError(ingest.CodeUnauthenticated, "an API key is required")}, "AuthenticationException", 401},
		{"another door", core{auth: ingest.NewError(ingest.CodeForbidden, "no")}, "UnauthorizedAccessException", 403},
		{"too many requests", core{auth: ingest.NewError(ingest.CodeRateLimited, "no")}, "TooManyRequests", 429},
		{"busy", core{refuse: &ingest.Error{Code: ingest.CodeBusy, Message: "later", Index: -1, RetryAfter: 1}}, "ServiceUnavailable", 503},
		{"an item too large", core{refuse: &ingest.Error{Code: ingest.CodeTooLarge, Message: "too large", Index: 3}}, "RequestEntityTooLarge", 413},
		{"our fault", core{refuse: errors.New("secret internals")}, "InternalServerError", 500},
	} {
		for _, f := range []string{"json", "jsv", "xml", "csv"} {
			t.Run(c.name+" in "+f, func(t *testing.T) {
				c.core.t = t
				w := serve(&c.core, "POST", Path+"."+f, http.Header{"Content-Type": {"application/json"}}, body)
				got := w.Body.String()
				if w.Code != c.want || !strings.Contains(got, c.code) || strings.Contains(got, "secret") {
					t.Errorf("%d %s, want %d %s", w.Code, got, c.want, c.code)
				}
				if f == "json" && c.core.refuse != nil && w.Code == 413 && !strings.Contains(got, `"fieldName":"FinancialTransactions[3]"`) {
					t.Errorf("the item is not named: %s", got)
				}
				if h := w.Header(); (w.Code == 503) != (h.Get("Retry-After") == "1") || (w.Code == 401) != (h.Get("WWW-Authenticate") != "") || h.Get("Vary") != "Accept" {
					t.Errorf("headers %v", h)
				}
			})
		}
	}
}

// TestAcceptedIsNeverAFailure: what is in Kafka is answered with where its outcomes will be found.
func TestAcceptedIsNeverAFailure(t *testing.T) {
	c := &core{t: t, pending: true}
	w := post(c, "application/json", `{"financialTransactions":[{},{}]}`)
	want := `{"responseStatus":{"errorCode":"Pending","message":"The request was accepted and is being processed; do not send it again. Its outcomes will be found at /v1/batches/17","errors":[]}}`
	if w.Code != 202 || w.Header().Get("Location") != "/v1/batches/17" || w.Body.String() != want {
		t.Errorf("pending: %d %v %s", w.Code, w.Header(), w.Body)
	}
	c = &core{t: t, fail: map[int]bool{1: true}}
	w = post(c, "application/json", `{"financialTransactions":[{},{},{}]}`)
	want = `{"responseStatus":{"errorCode":"InternalServerError","message":"Some of the 3 transactions could not be processed; the others were, so do not send them again. The outcomes are found at /v1/batches/17",` +
		`"errors":[{"errorCode":"InternalServerError","fieldName":"FinancialTransactions[1]","message":"The transaction was accepted, but could not be processed"}]}}`
	if w.Code != 500 || w.Header().Get("Location") != "/v1/batches/17" || w.Body.String() != want {
		t.Errorf("failed: %d %v %s", w.Code, w.Header(), w.Body)
	}
	// In an array of requests the one is named that has the transaction, and the transaction in it.
	c = &core{t: t, fail: map[int]bool{3: true}}
	w = serve(c, "POST", "/json/reply/FinancialTransactionsBatchCreate[]", nil, `[{"financialTransactions":[{},{}]},{},{"financialTransactions":[{},{}]},{}]`)
	if w.Code != 500 || w.Header().Get("X-AutoBatch-Completed") != "2" ||
		!strings.Contains(w.Body.String(), `"fieldName":"FinancialTransactions[1]"`) || !strings.Contains(w.Body.String(), `"meta":{"AutoBatchIndex":"2"}`) {
		t.Errorf("failed in an array: %d %v %s", w.Code, w.Header(), w.Body)
	}
	// The first request is in Kafka, the second is refused.
	c = &core{t: t, pending: true}
	w = serve(c, "POST", "/json/reply/FinancialTransactionsBatchCreate[]", nil, `[{"financialTransactions":[{}]},{"financialTransactions":[1]}]`)
	if w.Code != 400 || w.Header().Get("Location") != "/v1/batches/17" || w.Header().Get("X-AutoBatch-Completed") != "1" || len(c.transactions()) != 1 {
		t.Errorf("pending and refused: %d %v %s", w.Code, w.Header(), w.Body)
	}
}

// TestLimits: what is too much is refused whole, whichever format it comes in.
func TestLimits(t *testing.T) {
	n := ingest.MaxItems + 1
	many := map[string]string{
		"application/json":                  `{"financialTransactions":[` + strings.Repeat("{},", n-1) + `{}]}`,
		"application/jsv":                   "{financialTransactions:[" + strings.Repeat("{},", n) + "]}",
		"application/xml":                   "<FinancialTransactionsBatchCreate><FinancialTransactions>" + strings.Repeat("<FinancialTransactionsBatchCreateViewModel/>", n) + "</FinancialTransactions></FinancialTransactionsBatchCreate>",
		"text/csv":                          "state\n" + strings.Repeat("ON\n", n),
		"application/x-www-form-urlencoded": "FinancialTransactions=[" + strings.Repeat("{},", n) + "]",
	}
	for mediaType, body := range many {
		c := &core{t: t}
		if w := post(c, mediaType, body); w.Code != 413 || c.got != nil || !strings.Contains(w.Body.String(), "more than 10000 transactions") {
			t.Errorf("%s: %d %s", mediaType, w.Code, w.Body)
		}
	}
	array := "[" + strings.Repeat(`{"financialTransactions":[{}]},`, n-1) + `{"financialTransactions":[{}]}]`
	c := &core{t: t}
	if w := serve(c, "POST", "/json/reply/FinancialTransactionsBatchCreate[]", nil, array); w.Code != 413 || c.got != nil {
		t.Errorf("in an array of requests: %d %s", w.Code, w.Body)
	}
	for _, in := range []struct {
		index     int // of the transaction that is too large, in all of the array
		field, at string
	}{{0, "FinancialTransactions[0]", "0"}, {1, "FinancialTransactions[1]", "0"}, {2, "FinancialTransactions[0]", "2"}, {3, "FinancialTransactions[1]", "2"}} {
		c := &core{t: t, refuse: &ingest.Error{Code: ingest.CodeTooLarge, Message: "too large", Index: in.index}}
		w := serve(c, "POST", "/json/reply/FinancialTransactionsBatchCreate[]", nil,
			`[{"financialTransactions":[{},{}]},{},{"financialTransactions":[{},{}]}]`)
		if body := w.Body.String(); w.Code != 413 || w.Header().Get("X-AutoBatch-Completed") != "0" || !strings.Contains(body, `"meta":{"AutoBatchIndex":"`+in.at+`"}`) || !strings.Contains(body, in.field) {
			t.Errorf("%d: %d %v %s", in.index, w.Code, w.Header(), body)
		}
	}
	deep := map[string]string{
		"application/json":                  `{"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`,
		"application/jsv":                   `{x:` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`,
		"application/xml":                   "<FinancialTransactionsBatchCreate>" + strings.Repeat("<x>", 64) + strings.Repeat("</x>", 64) + "</FinancialTransactionsBatchCreate>",
		"application/x-www-form-urlencoded": "financialtransactions=" + strings.Repeat("[", 65) + strings.Repeat("]", 65),
	}
	for mediaType, body := range deep {
		c := &core{t: t}
		if w := post(c, mediaType, body); w.Code != 400 || c.got != nil || !strings.Contains(w.Body.String(), "nested deeper than 64 levels") {
			t.Errorf("%s: %d %s", mediaType, w.Code, w.Body)
		}
	}
	// Many errors do not make a large answer.
	c = &core{t: t}
	w := post(c, "application/json", `{"financialTransactions":[`+strings.Repeat(`{"taxRate":"x","state":[1],"freeAmount":{}},`, 4000)+`{}]}`)
	if w.Code != 400 || strings.Count(w.Body.String(), `"fieldName"`) != maxErrors+1 || !strings.Contains(w.Body.String(), "There are more errors, which are not listed") {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
}
