package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/openapicheck"
)

// v1Answer is an answer of POST /v1/{kind}; of a problem the lower half.
type v1Answer struct {
	Batch                           int64
	Status                          any // text; of a problem the number
	Processed, Unprocessed, Pending int
	Items                           []struct {
		Index   int
		Ref     *string
		ID      string
		Outcome string
		Reasons []struct{ Code, Field, Message string }
	}

	Type, Title, Detail, Code string
	Index                     *int
}

// short says what became of the items: ref outcome codes.
func (a *v1Answer) short() (all []string) {
	for i, it := range a.Items {
		text := "-"
		if it.Ref != nil {
			text = *it.Ref
		}
		text += " " + it.Outcome
		for _, r := range it.Reasons {
			text += " " + r.Code + ":" + r.Field
		}
		if it.Index != i || len(it.ID) != 32 {
			text += fmt.Sprintf(" (index %d, id %q)", it.Index, it.ID)
		}
		all = append(all, text)
	}
	return all
}

// postV1 sends a body with headers given as name, value, name, value.
func postV1(t testing.TB, s *ingest.Service, key, kind, body string, headers ...string) (*http.Response, *v1Answer) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.Addr()+"/v1/"+kind, strings.NewReader(body))
	check(t, err)
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("X-Api-Key", key)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	check(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	check(t, err)
	documented(t, res, text)
	a := new(v1Answer)
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	check(t, dec.Decode(a))
	return res, a
}

var document = sync.OnceValues(openapicheck.Load)

// documented holds an answer against the OpenAPI document.
func documented(t testing.TB, res *http.Response, body []byte) {
	t.Helper()
	d, err := document()
	check(t, err)
	if err := d.Response(res.Request, res, body); err != nil {
		t.Errorf("%s %s: the answer is not what the document says: %v", res.Request.Method, res.Request.URL, err)
	}
}

func v1Event(ref, account string) string {
	return fmt.Sprintf(`{"ref":%q,"kind":"web","account":{"number":%q}}`, ref, account)
}

func TestV1AnswersWhatBecameOfEachItem(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	w.sink(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	body := `{"items":[` + strings.Join([]string{v1Event("a", "1"), v1Event("b", "missing"), `{"ref":"c","kind":1,"acount":{}}`, `7`, v1Event("a", "1")}, ",") + `]}`
	want := []string{"a processed", "b unprocessed not_found:account", "c unprocessed invalid:kind invalid:acount missing:account missing:unit missing:performed_on", "- unprocessed invalid:", "a processed"}

	res, a := postV1(t, s, key, "customer-events", body)
	if diff := cmp.Diff(want, a.short()); diff != "" || res.StatusCode != 200 || a.Status != "complete" || a.Processed != 2 || a.Unprocessed != 3 || a.Pending != 0 {
		t.Errorf("status %d %v: %d/%d/%d (-want +got)\n%s", res.StatusCode, a.Status, a.Processed, a.Unprocessed, a.Pending, diff)
	}
	if got := res.Header.Get("Location"); got != ingest.JobURL(a.Batch) {
		t.Errorf("Location %q of batch %d", got, a.Batch)
	}
	if res.Header.Get("Preference-Applied") != "" || res.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("headers %v", res.Header)
	}

	res, none := postV1(t, s, key, "sales", `[]`)
	if res.StatusCode != 200 || none.Status != "complete" || none.Items == nil || none.Batch <= a.Batch {
		t.Errorf("no items: %d %+v", res.StatusCode, none)
	}
}

// What is large only as it is written is no reason to refuse all items of a request.
func TestV1AnItemWithDefectsMayBeLargeInItsTextOnly(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	good := strings.TrimSuffix(v1Event("a", "1"), "}")
	for name, c := range map[string]struct {
		item   string
		status int
	}{
		"escapes":         {good + `,"description":"` + strings.Repeat(`\u00e9`, 300_000) + `","nope":1}`, 200},
		"blanks":          {good + `,"nope":1` + strings.Repeat(" ", 1100<<10) + `}`, 200},
		"a text that is":  {good + `,"description":"` + strings.Repeat(`é`, 600_000) + `","nope":1}`, 413},
		"without defects": {good + `,"description":"` + strings.Repeat(`\u00e9`, 300_000) + `"}`, 200},
	} {
		from := w.ends(t, schemas.UnprocessedTopic(schemas.KindCustomerEvents))
		res, a := postV1(t, s, key, "customer-events", "["+c.item+","+v1Event("b", "1")+"]")
		if res.StatusCode != c.status || c.status == 200 && a.Processed+a.Unprocessed != 2 {
			t.Errorf("%s: status %d, %v", name, res.StatusCode, a.short())
		}
		for _, r := range w.read(t, schemas.UnprocessedTopic(schemas.KindCustomerEvents), from) {
			u, err := schemas.NewDecoder[schemas.Unprocessed](w.registry, schemas.UnprocessedSchema).Await(t.Context(), r.Value)
			check(t, err)
			var sent, kept any
			check(t, json.Unmarshal([]byte(c.item), &sent))
			check(t, json.Unmarshal(u.Original, &kept))
			if !reflect.DeepEqual(sent, kept) {
				t.Errorf("%s: the outcome shows %.100q", name, u.Original)
			}
		}
	}
}

// Ids are compared without case, so the last of their spellings in a batch must be the last in the topic.
func TestV1SpellingsOfAnIdLieInOnePartition(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	from := w.ends(t, schemas.StockLevels)
	for i := range 20 {
		_, a := postV1(t, s, key, "stock", fmt.Sprintf(`[{"product":"qQ%d","available_now":1},{"product":"Qq%[1]d","available_now":0}]`, i))
		if a.Processed != 2 {
			t.Fatal(a.short())
		}
	}
	lie := map[string]int32{}
	for _, r := range w.read(t, schemas.StockLevels, from) {
		id := schemas.Fold(string(r.Key))
		if p, ok := lie[id]; ok && p != r.Partition {
			t.Errorf("%s lies in partitions %d and %d", id, p, r.Partition)
		}
		lie[id] = r.Partition
	}
	if len(lie) != 20 {
		t.Errorf("%d products", len(lie))
	}
}

func TestV1WaitsAsLongAsTheCallerSays(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	brief := w.start(t, map[string]string{"REPLY_WAIT": "2s"})
	patient := w.start(t, map[string]string{"REPLY_WAIT": "10s"})
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	body := "[" + v1Event("a", "hold") + "," + v1Event("b", "1") + `,{"ref":"c","kind":1}]`
	for _, c := range []struct {
		service         *ingest.Service
		prefer, applied string
		least, most     time.Duration
		b               string // what b can have become: its outcome, or anything
	}{
		{brief, "", "", 2 * time.Second, 10 * time.Second, "processed"},
		{brief, "wait=3", "wait=3", 3 * time.Second, 10 * time.Second, "processed"},
		{patient, "respond-async", "respond-async", 0, 5 * time.Second, ""},
		{patient, "wait=0", "wait=0", 0, 5 * time.Second, ""},
		{brief, "respond-async, wait=3", "respond-async, wait=3", 3 * time.Second, 10 * time.Second, "processed"},
		{brief, "handling=strict", "", 2 * time.Second, 10 * time.Second, "processed"},
	} {
		start := time.Now()
		res, a := postV1(t, c.service, key, "customer-events", body, "Prefer", c.prefer)
		took := time.Since(start)
		if res.StatusCode != 202 || a.Status != "processing" || a.Pending == 0 || len(a.Items) != 3 || a.Items[0].Outcome != "pending" || a.Items[2].Outcome != "unprocessed" {
			t.Errorf("%q: %d %v %v", c.prefer, res.StatusCode, a.Status, a.short())
		}
		if c.b != "" && a.Items[1].Outcome != c.b {
			t.Errorf("%q: %v", c.prefer, a.short())
		}
		if took < c.least || took > c.most {
			t.Errorf("%q: answered after %v", c.prefer, took)
		}
		if got := res.Header.Get("Preference-Applied"); got != c.applied {
			t.Errorf("%q: applied %q", c.prefer, got)
		}
		if res.Header.Get("Location") != ingest.JobURL(a.Batch) {
			t.Errorf("%q: Location %q", c.prefer, res.Header.Get("Location"))
		}
	}
	// What does not come to judges is complete without any wait.
	res, a := postV1(t, brief, key, "customer-events", `[{"kind":1}]`, "Prefer", "respond-async")
	if res.StatusCode != 200 || a.Status != "complete" || res.Header.Get("Preference-Applied") != "respond-async" {
		t.Errorf("all decided at the door: %d %+v", res.StatusCode, a)
	}
}

func TestV1RecordsAreWrittenAndJudgedAtOnce(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	processed, unprocessed := schemas.ProcessedTopic(schemas.References), schemas.UnprocessedTopic(schemas.References)
	topics := []string{schemas.Accounts, schemas.OrderLines, schemas.CustomerParts, processed, unprocessed}
	from := w.ends(t, topics...)

	res, a := postV1(t, s, key, "accounts", `[{"ref":"a","id":"A1","number":"ACR1"},{"ref":"b","id":7,"number":""},{"id":"A2/1","number":"ACR2"}]`)
	if diff := cmp.Diff([]string{"a processed", "b unprocessed invalid:id missing:number", "- processed"}, a.short()); diff != "" || res.StatusCode != 200 || a.Status != "complete" {
		t.Errorf("%d %v (-want +got)\n%s", res.StatusCode, a.Status, diff)
	}
	if _, lines := postV1(t, s, key, "order-lines", "id,customer,product,quantity,ordered_on\nL1,77,P,-2.5,2016-02-29\n", "Content-Type", "text/csv"); lines.Processed != 1 {
		t.Errorf("a line: %v", lines.short())
	}
	if _, parts := postV1(t, s, key, "customer-parts", `{"customer":77,"product":"P","part_number":"X"}`, "Content-Type", "application/x-ndjson"); parts.Processed != 1 {
		t.Errorf("a part: %v", parts.short())
	}

	var got []string
	for _, topic := range topics[:3] {
		for _, r := range w.read(t, topic, from) {
			e, err := schemas.ParseEnvelope(r.Headers)
			check(t, err)
			got = append(got, topic+" "+string(r.Key)+" "+e.Tenant)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"accounts demo/A1 demo", "accounts demo/A2/1 demo", "customer_parts demo/77/P demo", "order_lines demo/L1 demo"}, got); diff != "" {
		t.Errorf("records (-want +got)\n%s", diff)
	}
	lines := schemas.NewDecoder[schemas.OrderLine](w.registry, schemas.OrderLineSchema)
	var line schemas.OrderLine
	check(t, lines.Decode(w.read(t, schemas.OrderLines, from)[0].Value, &line))
	if line.Quantity.String() != "-2.5" || line.Customer != 77 || line.OrderedOn.Format(time.DateOnly) != "2016-02-29" {
		t.Errorf("the line is %+v", line)
	}

	good := schemas.NewDecoder[schemas.ReferenceProcessed](w.registry, schemas.ReferenceProcessedSchema)
	got = nil
	for _, r := range w.read(t, processed, from) {
		var o schemas.ReferenceProcessed
		check(t, good.Decode(r.Value, &o))
		got = append(got, fmt.Sprintf("%s %s %s %d", o.Tenant, o.Kind, o.OwnID, o.Index))
		if o.Kind == schemas.Accounts && o.ID != a.Items[o.Index].ID {
			t.Errorf("item %d has the identity %s in its outcome and %s in the answer", o.Index, o.ID, a.Items[o.Index].ID)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"demo accounts A1 0", "demo accounts A2/1 2", "demo customer_parts 77/P 0", "demo order_lines L1 0"}, got); diff != "" {
		t.Errorf("outcomes (-want +got)\n%s", diff)
	}
	bad := schemas.NewDecoder[schemas.Unprocessed](w.registry, schemas.UnprocessedSchema)
	refused := w.read(t, unprocessed, from)
	if len(refused) != 1 {
		t.Fatalf("%d unprocessed outcomes", len(refused))
	}
	var u schemas.Unprocessed
	check(t, bad.Decode(refused[0].Value, &u))
	if u.Kind != schemas.Accounts || u.Index != 1 || *u.Ref != "b" || len(u.Reasons) != 2 || string(u.Original) != `{"ref":"b","id":7,"number":""}` || u.Format != schemas.FormatJSON {
		t.Errorf("unprocessed: %+v", u)
	}
}

func TestV1RefusesInProblems(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	hello := w.keys.add(t, "demo", ingest.KeyOptions{Doors: []string{ingest.DoorHelloID}})
	large := `[{"id":"1"},{"id":"2","description":"` + strings.Repeat("x", 1<<20) + `"}]`
	for _, c := range []struct {
		name, key, method, path, contentType, body string
		status                                     int
		code                                       ingest.Code
		header                                     string // name: value
		index                                      *int
	}{
		{"no key", "", "POST", "/v1/sales", "application/json", "[]", 401, ingest.CodeUnauthenticated, `WWW-Authenticate: Bearer, Basic realm="counterfoil"`, nil},
		{"a key of another door", hello, "POST", "/v1/sales", "application/json", "[]", 403, ingest.CodeForbidden, "", nil},
		{"a form", key, "POST", "/v1/sales", "application/x-www-form-urlencoded", "a=b", 415, ingest.CodeUnsupported, "Accept-Post: application/json, application/x-ndjson, text/csv", nil},
		{"no media type", key, "POST", "/v1/sales", "", "[]", 415, ingest.CodeUnsupported, "", nil},
		{"not JSON", key, "POST", "/v1/sales", "application/json", "[", 400, ingest.CodeMalformed, "", nil},
		{"too deep", key, "POST", "/v1/sales", "application/json", strings.Repeat("[", 100), 400, ingest.CodeMalformed, "", nil},
		{"too many items", key, "POST", "/v1/sales", "application/x-ndjson", strings.Repeat("{}\n", 10_001), 413, ingest.CodeTooLarge, "", nil},
		{"too large an item", key, "POST", "/v1/sales", "application/json", large, 413, ingest.CodeTooLarge, "", new(1)},
		{"too large a body", key, "POST", "/v1/sales", "application/x-ndjson", strings.Repeat("\n", 16<<20+1), 413, ingest.CodeTooLarge, "", nil},
		{"no such kind", key, "POST", "/v1/sale", "application/json", "[]", 404, ingest.CodeNotFound, "", nil},
		{"a topic's name", key, "POST", "/v1/customer_events", "application/json", "[]", 404, ingest.CodeNotFound, "", nil},
		{"keys are not for callers", key, "POST", "/v1/api-keys", "application/json", "[]", 404, ingest.CodeNotFound, "", nil},
		{"another method", key, "GET", "/v1/sales", "", "", 405, ingest.CodeMethod, "Allow: POST", nil},
		{"lists are read", key, "POST", "/v1/batches", "application/json", "[]", 405, ingest.CodeMethod, "Allow: GET, HEAD", nil},
		{"nothing at all", key, "GET", "/v1", "", "", 404, ingest.CodeNotFound, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, "http://"+s.Addr()+c.path, strings.NewReader(c.body))
			check(t, err)
			req.Header.Set("Content-Type", c.contentType)
			if c.contentType == "" {
				req.Header.Del("Content-Type")
			}
			if c.key != "" {
				req.SetBasicAuth(c.key[:6], c.key[7:])
			}
			res, err := http.DefaultClient.Do(req)
			check(t, err)
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			check(t, err)
			if c.status != 404 && c.status != 405 { // of paths and methods that there are not
				documented(t, res, text)
			}
			var p v1Answer
			check(t, json.Unmarshal(text, &p))
			if res.StatusCode != c.status || res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("status %d, %s: %+v", res.StatusCode, res.Header.Get("Content-Type"), p)
			}
			if p.Code != string(c.code) || p.Status != float64(c.status) || p.Type != "about:blank" || p.Title != http.StatusText(c.status) || p.Detail == "" {
				t.Errorf("problem %+v", p)
			}
			if diff := cmp.Diff(c.index, p.Index); diff != "" {
				t.Errorf("index (-want +got)\n%s", diff)
			}
			if name, value, ok := strings.Cut(c.header, ": "); ok && res.Header.Get(name) != value {
				t.Errorf("%s: %q", name, res.Header.Get(name))
			}
		})
	}
}

func TestV1StreamsListsOfAnyLength(t *testing.T) {
	w := newWorld(t)
	w.sink(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	const items, batches = 2_500, 250
	w.reports.items = map[string][]schemas.ItemReport{}
	for i := range items {
		w.reports.items["k"] = append(w.reports.items["k"], schemas.ItemReport{Index: int32(i), ID: fmt.Sprintf("%032x", i)})
	}
	for n := range batches {
		w.reports.batches = append(w.reports.batches, schemas.BatchReport{Number: int64(n + 1), Key: "k", Tenant: "demo", Kind: schemas.KindSales, Items: items, Processed: items})
	}
	lines := func(path string) (int, *http.Response) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "http://"+s.Addr()+path, nil)
		check(t, err)
		req.Header.Set("X-Api-Key", key)
		req.Header.Set("Accept", "application/x-ndjson")
		res, err := http.DefaultClient.Do(req)
		check(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		check(t, err)
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Fatalf("%s: %d %s", path, res.StatusCode, text)
		}
		documented(t, res, text)
		n := 0
		for line := range bytes.Lines(text) {
			var row struct{ Index, Batch int }
			check(t, json.Unmarshal(line, &row))
			if strings.Contains(path, "processed") && row.Index != n || !strings.Contains(path, "processed") && row.Batch != batches-n {
				t.Fatalf("%s: row %d is %s", path, n, line)
			}
			n++
		}
		return n, res
	}
	for path, want := range map[string]int{
		"/v1/batches/7/processed": items, "/v1/batches/7/unprocessed": 0, "/v1/batches": batches,
		"/v1/batches/7/processed?limit=10": 10, "/v1/batches?limit=100000": batches, "/v1/batches/7/processed?limit=2500": items,
	} {
		got, res := lines(path)
		if got != want {
			t.Errorf("%s: %d lines, want %d", path, got, want)
		}
		if next := res.Header.Get("Link"); (next != "") != (want == 10) {
			t.Errorf("%s: Link %q", path, next)
		}
	}
}

// While others write, a stream of batches waits for the sink once, not for each page.
func TestV1AStreamOfBatchesWaitsForTheSinkOnce(t *testing.T) {
	w := newWorld(t)
	w.commitEnds(t, schemas.GroupSink)
	s := w.start(t, map[string]string{"SINK_WAIT": "500ms", "SINK_WAIT_START": "500ms"})
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	const batches = 2_500
	for n := range batches {
		w.reports.batches = append(w.reports.batches, schemas.BatchReport{Number: int64(n + 1), Tenant: "demo", Kind: schemas.KindSales})
	}
	pages := 0
	w.reports.onBatches = func(before int64) {
		if pages++; before == 0 { // from here on the sink is behind
			postV1(t, s, key, schemas.KindSales, "[{}]", "Prefer", "respond-async")
		}
	}
	text, err := stream(t, s, key, "/v1/batches")
	if n := bytes.Count(text, []byte("\n")); err != nil || n != batches || pages != 4 {
		t.Errorf("%d lines of %d pages, then %v", n, pages, err)
	}
	if status, body, _ := get(t, s, key, "/v1/batches?after=9"); status != 503 {
		t.Errorf("a page while the sink is behind: %d %s", status, body)
	}
}

// stream reads a list as NDJSON; the error is that it was cut.
func stream(t testing.TB, s *ingest.Service, key, path string) ([]byte, error) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+s.Addr()+path, nil)
	check(t, err)
	req.Header.Set("X-Api-Key", key)
	req.Header.Set("Accept", "application/x-ndjson")
	res, err := http.DefaultClient.Do(req)
	check(t, err)
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

func TestV1AStreamThatBreaksIsCut(t *testing.T) {
	w := newWorld(t)
	w.sink(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	w.reports.batches = []schemas.BatchReport{{Number: 1, Key: "k", Tenant: "demo", Kind: schemas.KindSales, Items: 5000, Processed: 5000}}
	w.reports.items = map[string][]schemas.ItemReport{}
	for i := range 5000 {
		w.reports.items["k"] = append(w.reports.items["k"], schemas.ItemReport{Index: int32(i), ID: fmt.Sprintf("%032x", i)})
	}
	w.reports.failAfter = 2_000
	text, err := stream(t, s, key, "/v1/batches/1/processed")
	if n := bytes.Count(text, []byte("\n")); err == nil || n == 0 || n > 3000 {
		t.Errorf("%d lines, then %v", n, err)
	}
}

// A stop does not cut off who waits for longer than it takes: the answer is what is there.
func TestV1AStopAnswersWhoWaitsForLong(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	s, err := ingest.New(config(t, map[string]string{"REPLY_WAIT": "2s", "INGEST_DRAIN_TIMEOUT": "10s"}),
		ingest.Deps{Kafka: w.broker.Opts(), Registry: w.registry, Keys: w.keys, Reports: w.reports, Log: logger(t), Metrics: prometheus.NewRegistry()})
	check(t, err)
	register(s)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for s.Ready() != nil {
		time.Sleep(5 * time.Millisecond)
	}
	time.AfterFunc(2*time.Second, stop)
	start := time.Now()
	res, a := postV1(t, s, key, "customer-events", "["+v1Event("a", "hold")+","+v1Event("b", "1")+"]", "Prefer", "wait=60")
	if took := time.Since(start); res.StatusCode != 202 || a.Pending != 1 || a.Processed != 1 || took < 3900*time.Millisecond || took > 10*time.Second {
		t.Errorf("after %v: %d %v", took, res.StatusCode, a.short())
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}
