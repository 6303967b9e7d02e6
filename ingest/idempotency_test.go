package ingest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/avon"
	"github.com/counterfoil/counterfoil/ingest/crmcom"
	"github.com/counterfoil/counterfoil/ingest/helloid"
	"github.com/counterfoil/counterfoil/ingest/mediahawk"
	"github.com/counterfoil/counterfoil/processors"
	"github.com/counterfoil/counterfoil/schemas"
)

// requests runs the processor of requests with an idempotency key until the test ends or stop is called.
func (w *world) requests(t testing.TB) (stop func()) {
	t.Helper()
	return w.requestsIn(t, 10_000)
}

// requestsIn is requests with the given number of records in a round.
func (w *world) requestsIn(t testing.TB, round int) (stop func()) {
	t.Helper()
	cfg, err := env.ParseAsWithOptions[processors.Config](env.Options{Environment: map[string]string{
		"SESSION_TIMEOUT": "2s", "TRANSACTION_TIMEOUT": "2s", "ROUND_RECORDS": fmt.Sprint(round),
	}})
	check(t, err)
	p, err := processors.New(cfg, processors.Deps{
		Kafka: w.broker.Opts(), Registry: w.registry, Epochs: schemas.Epochs{}, Log: logger(t), Metrics: prometheus.NewRegistry(),
	}, processors.Requests)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("processor: %v", err)
		}
	})
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	for deadline := time.Now().Add(20 * time.Second); p.Ready() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v", p.Ready())
		}
	}
	return stop
}

// outcomesFrom is what ClickHouse would say of a batch, from the result topics.
func (w *world) outcomesFrom(t testing.TB) {
	topics := []string{schemas.ProcessedTopic(schemas.KindCustomerEvents), schemas.UnprocessedTopic(schemas.KindCustomerEvents)}
	from := w.ends(t, topics...)
	heads := schemas.NewHeadDecoder[schemas.EventResult](w.registry, schemas.EventProcessedSchema)
	unprocessed := schemas.NewDecoder[schemas.Unprocessed](w.registry, schemas.UnprocessedSchema)
	w.reports.outcomes = func(_, _, key string) ([]schemas.OutcomeReport, error) {
		var all []schemas.OutcomeReport
		for _, topic := range topics {
			for _, r := range w.read(t, topic, from) {
				if e, err := schemas.ParseEnvelope(r.Headers); err != nil || e.Batch != key {
					continue
				}
				if topic == topics[0] {
					head := new(schemas.EventResult)
					if err := heads.Decode(r.Value, head); err != nil {
						return nil, err
					}
					all = append(all, schemas.OutcomeReport{Index: head.Index, Processed: head})
				} else {
					var u schemas.Unprocessed
					if err := unprocessed.Decode(r.Value, &u); err != nil {
						return nil, err
					}
					all = append(all, schemas.OutcomeReport{Index: u.Index, Reasons: u.Reasons})
				}
			}
		}
		return all, nil
	}
}

// keyed is what a request with an idempotency key was answered.
type keyed struct {
	status   int
	body     string
	header   http.Header
	replayed bool
}

func (k keyed) answer(t testing.TB) (a testAnswer) {
	t.Helper()
	if err := json.Unmarshal([]byte(k.body), &a); err != nil {
		t.Fatalf("status %d: %s: %v", k.status, k.body, err)
	}
	return a
}

// postKeyed sends a body with values of Idempotency-Key.
func postKeyed(s *ingest.Service, path, caller, body string, values ...string) (keyed, error) {
	return postKeyedAs(s, path, caller, "", body, values...)
}

// postKeyedAs is postKeyed with a Content-Type.
func postKeyedAs(s *ingest.Service, path, caller, contentType, body string, values ...string) (keyed, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+s.Addr()+path, strings.NewReader(body))
	if err != nil {
		return keyed{}, err
	}
	req.Header.Set("X-Api-Key", caller)
	req.Header["Idempotency-Key"] = values
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return keyed{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return keyed{res.StatusCode, string(text), res.Header, res.Header.Get("Idempotent-Replayed") == "true"}, err
}

func mustKeyed(t testing.TB, s *ingest.Service, path, caller, body string, values ...string) keyed {
	t.Helper()
	k, err := postKeyed(s, path, caller, body, values...)
	check(t, err)
	return k
}

// freshKey is an idempotency key that no other test used: a real broker is shared.
func freshKey() string { return rand.Text() }

const twoItems = `[{"ref":"a","account":"1"},{"ref":"b","account":"missing"},{"ref":"c","defect":true}]`

func TestARepeatedRequestHasTheAnswerOfTheFirstAndNoEffect(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	w.requests(t)
	w.outcomesFrom(t)
	replicas := []*ingest.Service{w.start(t, nil), w.start(t, nil)}
	caller, stranger := w.keys.add(t, "demo", ingest.KeyOptions{}), w.keys.add(t, "other", ingest.KeyOptions{})
	from := w.ends(t, schemas.Batches)
	batches := func() int { return len(w.read(t, schemas.Batches, from)) }
	key := freshKey()

	first := mustKeyed(t, replicas[0], "/test", caller, twoItems, key)
	if first.status != 200 || first.replayed {
		t.Fatalf("first: status %d, replayed %t: %s", first.status, first.replayed, first.body)
	}
	if diff := cmp.Diff([]string{"processed", "unprocessed not_found", "unprocessed invalid"}, first.answer(t).Items); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	for i := range 4 {
		again := mustKeyed(t, replicas[i%2], "/test", caller, twoItems, key)
		if again.status != 200 || !again.replayed || again.body != first.body {
			t.Errorf("repeated: status %d, replayed %t: %s\nwant %s", again.status, again.replayed, again.body, first.body)
		}
	}
	if n := batches(); n != 1 {
		t.Errorf("%d batches after the repeated requests, want 1", n)
	}
	conflict := mustKeyed(t, replicas[1], "/test", caller, `[{"ref":"a","account":"2"}]`, key)
	if conflict.status != 422 || conflict.replayed || !strings.Contains(conflict.body, `"code":"idempotency_conflict"`) {
		t.Errorf("another body: status %d, replayed %t: %s", conflict.status, conflict.replayed, conflict.body)
	}
	if query := mustKeyed(t, replicas[1], "/test?api_key=another&format=json", caller, twoItems, key); query.body != first.body {
		t.Errorf("with a query: status %d: %s", query.status, query.body)
	}
	if n := batches(); n != 1 {
		t.Errorf("%d batches after the refused requests, want 1", n)
	}
	// The scope of a key is one tenant and one route.
	for i, other := range []keyed{
		mustKeyed(t, replicas[0], "/test", stranger, twoItems, key), mustKeyed(t, replicas[0], "/other", caller, twoItems, key),
		mustKeyed(t, replicas[0], "/test", caller, twoItems, key+"2"), mustKeyed(t, replicas[0], "/test", caller, twoItems),
	} {
		if other.status != 200 || other.replayed {
			t.Errorf("other scope %d: status %d, replayed %t: %s", i, other.status, other.replayed, other.body)
		}
	}
	if n := batches(); n != 5 {
		t.Errorf("%d batches after requests of other scopes, want 5", n)
	}
	if got := metric(t, replicas[0], "counterfoil_ingest_bytes_in_flight"); got != "0" {
		t.Errorf("%s bytes are in flight afterwards", got)
	}
}

// Partners' clients spell the path of an operation in several ways. The operation is what a key belongs to.
func TestHoweverTheOperationIsSpeltAKeyIsTheSame(t *testing.T) {
	w := newWorld(t)
	w.requests(t)
	w.reports.outcomes = func(string, string, string) ([]schemas.OutcomeReport, error) { return nil, nil }
	s := w.start(t, map[string]string{"REPLY_WAIT": "3s"}) // each waits for as long: nobody judges
	mediahawk.New(s, w.reports).Register(s.Mux())
	avon.New(s).Register(s.Mux())
	helloid.New(s, w.reports).Register(s.Mux())
	crmcom.New(s).Register(s.Mux())
	caller := w.keys.add(t, "demo", ingest.KeyOptions{})
	const bulk, transactions, grant = crmcom.Base + "customer_events/bulk/", "FinancialTransactionsBatchCreate", `{"UserName":"ann","ProductSKU":"1","HasProduct":true}`
	for name, c := range map[string]struct {
		paths      []string
		mediaType  string
		body       string
		operations int // that the paths are of
	}{
		"mediahawk": {[]string{mediahawk.Root + "/sales/batches", "/sales/batches", "/sales/batches/", mediahawk.Root + "/sales/batches/"}, "application/json", `{"lookback":12,"sales":[` + sale(1) + `]}`, 1},
		"avon": {[]string{avon.Path, avon.Path + "/", avon.Path + ".json", avon.Path + ".xml", "/json/reply/" + transactions, "/JSON/Reply/" + strings.ToLower(transactions),
			"/json/oneway/" + transactions, "/jsv/reply/" + transactions, "/api/" + transactions, "/api/" + strings.ToUpper(transactions) + ".json"},
			"application/json", `{"FinancialTransactions":[{"BeeNumberCustomer":7}]}`, 1},
		"helloid":                 {[]string{helloid.Base, helloid.Base + "/"}, "application/json", grant, 1},
		"helloid, two operations": {[]string{helloid.Base + "/batch", helloid.Base + "/batch/", helloid.Base + "/csv"}, "", "", 2},
		"crm.com":                 {[]string{bulk + "web/create", bulk + "web/create/"}, "application/json", `{"web_customer_events_set":[{}]}`, 1},
		"v1":                      {[]string{"/v1/ownership", "/v1/sales"}, "application/json", `[{}]`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			key, from := freshKey(), w.ends(t, schemas.Batches)
			var effects atomic.Int32
			var all sync.WaitGroup
			for _, path := range c.paths {
				mediaType, body := c.mediaType, c.body
				switch {
				case mediaType != "":
				case strings.HasSuffix(path, "csv"):
					mediaType, body = "text/csv", "ann,1,,true,,\n"
				default:
					mediaType, body = "application/json", "["+grant+"]"
				}
				all.Go(func() {
					switch k, err := postKeyedAs(s, path, caller, mediaType, body, key); {
					case err != nil || k.status >= 300:
						t.Errorf("%s: status %d, %v: %s", path, k.status, err, k.body)
					case !k.replayed:
						effects.Add(1)
					}
				})
			}
			all.Wait()
			if n := len(w.read(t, schemas.Batches, from)); n != c.operations || int(effects.Load()) != n {
				t.Errorf("%d batches, of which the callers know %d, want %d", n, effects.Load(), c.operations)
			}
		})
	}
}

// A caller's repetition is told from another request by what it says, not by how it says it.
func TestWhatIsTheSameRequest(t *testing.T) {
	w := newWorld(t)
	w.requests(t)
	w.reports.outcomes = func(string, string, string) ([]schemas.OutcomeReport, error) { return nil, nil }
	s := w.start(t, map[string]string{"REPLY_WAIT": "3s"}) // each waits for as long: nobody judges
	avon.New(s).Register(s.Mux())
	mediahawk.New(s, w.reports).Register(s.Mux())
	crmcom.New(s).Register(s.Mux())
	caller := w.keys.add(t, "demo", ingest.KeyOptions{})
	form := func(boundary, amount string) string {
		return strings.ReplaceAll("--^\r\nContent-Disposition: form-data; name=\"FinancialTransactions\"\r\n\r\n[{BeeNumberCustomer:"+amount+"}]\r\n--^--\r\n", "^", boundary)
	}
	const parts, event, upload = "multipart/form-data; boundary=", `{"kind":"web"}`, `{"lookback":12,"sales":[]}`
	const bulk, rows = crmcom.Base + "customer_events/bulk/web/create", `{"web_customer_events_set":[{}]}`
	const dto, field = `{"financialTransactions":[{"state":"ON"}]}`, "FinancialTransactions=[{State:ON}]"
	type request struct{ path, contentType, body string }
	var all sync.WaitGroup
	for name, c := range map[string]struct {
		first, second request
		same          bool
	}{
		"the same bytes of another media type": {request{"/v1/customer-events", "application/json", "[" + event + "]"}, request{"/v1/customer-events", "application/x-ndjson", "[" + event + "]"}, false},
		"another spelling of the media type":   {request{"/v1/customer-events", "application/json", "[" + event + "]"}, request{"/v1/customer-events", "Application/JSON; charset=UTF-8", "[" + event + "]"}, true},
		"a form that was built anew":           {request{avon.Path, parts + "aaa", form("aaa", "1")}, request{avon.Path, parts + `"b b"`, form("b b", "1")}, true},
		"another form":                         {request{avon.Path, parts + "aaa", form("aaa", "1")}, request{avon.Path, parts + "aaa", form("aaa", "2")}, false},
		"a media type that does not matter":    {request{bulk, "application/json", rows}, request{bulk, "text/plain", rows}, true},
		"a parameter that does not matter":     {request{bulk, "application/json", rows}, request{bulk + "?a=1", "application/json", rows}, true},
		"the parameters in another order":      {request{avon.Path + "?format=xml&financialTransactions=[{}]", "", ""}, request{avon.Path + "?%66inancialTransactions=[{}]&format=xml", "", ""}, true},
		"another value of a parameter":         {request{avon.Path + "?financialTransactions=[{}]", "", ""}, request{avon.Path + "?financialTransactions=[{},{}]", "", ""}, false},
		"a list in another spelling":           {request{avon.Path + "?financialTransactions=[{}]", "", ""}, request{avon.Path + "?FINANCIALTRANSACTIONS=%5B%7B%7D%5D&_=123", "", ""}, true},
		"another form of the answer":           {request{avon.Path, "application/json", dto}, request{avon.Path + "?format=xml&_=123", "application/json", dto}, true},
		"another name of JSON":                 {request{avon.Path, "application/json", dto}, request{avon.Path, "text/json", dto}, true},
		"JSON that the path names":             {request{avon.Path, "application/json", dto}, request{"/json/reply/FinancialTransactionsBatchCreate", "text/plain", dto}, true},
		"another name of JSV":                  {request{avon.Path, "text/jsv", dto}, request{avon.Path, "application/jsv; charset=utf-8", dto}, true},
		"JSON read as JSV":                     {request{avon.Path, "application/json", dto}, request{avon.Path, "text/jsv", dto}, false},
		"a list in the form, not in the URL":   {request{avon.Path, "application/x-www-form-urlencoded", field}, request{avon.Path + "?FinancialTransactions=[{},{}]", "application/x-www-form-urlencoded", field}, true},
		"no media type":                        {request{"/sales/batches", "application/json", upload}, request{"/sales/batches", "", upload}, true},
		"another media type of the same":       {request{"/sales/batches", "application/json", upload}, request{"/sales/batches", "text/json; charset=utf8", upload}, true},
		"CSV and JSON":                         {request{"/v1/sales", "text/csv", "[]"}, request{"/v1/sales", "application/json", "[]"}, false},
		"the key of the caller in any form":    {request{"/sales/batches", "application/json", upload}, request{"/sales/batches?api%5Fkey=" + url.QueryEscape(caller) + "&API_KEY=x", "application/json", upload}, true},
	} {
		all.Go(func() {
			key := freshKey()
			if first, err := postKeyedAs(s, c.first.path, caller, c.first.contentType, c.first.body, key); err != nil || first.status >= 300 {
				t.Errorf("%s, first: status %d, %v: %s", name, first.status, err, first.body)
				return
			}
			second, err := postKeyedAs(s, c.second.path, caller, c.second.contentType, c.second.body, key)
			if err != nil || c.same && (!second.replayed || second.status >= 300) || !c.same && second.status != 422 {
				t.Errorf("%s, same %t: status %d, replayed %t, %v: %s", name, c.same, second.status, second.replayed, err, second.body)
			}
		})
	}
	all.Wait()
}

// What was acknowledged is in its topic: who reads or writes afterwards does so after all of the batch.
func TestAKeyedRequestIsAnsweredWhenAllOfItIsWhereItBelongs(t *testing.T) {
	const items = 101
	w := newWorld(t)
	w.requestsIn(t, 2)
	s := w.start(t, map[string]string{"REPLY_WAIT": "30s"})
	caller := w.keys.add(t, "demo", ingest.KeyOptions{})
	for kind, c := range map[string]struct {
		item   string
		status int
	}{
		schemas.Accounts:      {`{"id":"%d","number":"1"}`, 200},
		schemas.KindOwnership: {`{"user_name":"ann","product_sku":"%d","has_product":true}`, 202},
	} {
		var body strings.Builder
		for i := range items {
			fmt.Fprintf(&body, c.item+"\n", i)
		}
		from := w.ends(t, kind)
		res, _ := postV1(t, s, caller, kind, body.String(), "Content-Type", "application/x-ndjson", "Idempotency-Key", freshKey(), "Prefer", "respond-async")
		if n := len(w.read(t, kind, from)); n != items || res.StatusCode != c.status {
			t.Errorf("%s: answered %d, want %d, when %d of %d records were there", kind, res.StatusCode, c.status, n, items)
		}
	}
}

func TestABatchDecidedAtTheDoorIsRepeatableToo(t *testing.T) {
	w := newWorld(t)
	w.requests(t)
	w.outcomesFrom(t)
	s := w.start(t, nil)
	caller, key := w.keys.add(t, "demo", ingest.KeyOptions{}), freshKey()
	from := w.ends(t, schemas.Batches)
	for i := range 2 {
		k := mustKeyed(t, s, "/test", caller, `[{"defect":true},{"defect":true}]`, key)
		if diff := cmp.Diff([]string{"unprocessed invalid", "unprocessed invalid"}, k.answer(t).Items); diff != "" || k.replayed != (i == 1) {
			t.Errorf("request %d, replayed %t (-want +got):\n%s", i+1, k.replayed, diff)
		}
	}
	if n := len(w.read(t, schemas.Batches, from)); n != 1 {
		t.Errorf("%d batches, want 1", n)
	}
	if got := metric(t, s, "counterfoil_ingest_bytes_in_flight"); got != "0" {
		t.Errorf("%s bytes are in flight afterwards", got)
	}
}

// Of two requests that race, at two replicas, one has an effect, and both are answered alike.
func TestRacingRequestsHaveOneEffectAndEqualAnswers(t *testing.T) {
	const pairs, atOnce = 200, 16
	w := newWorld(t)
	w.judge(t)
	w.requests(t)
	w.outcomesFrom(t)
	replicas := []*ingest.Service{w.start(t, nil), w.start(t, nil)}
	caller := w.keys.add(t, "demo", ingest.KeyOptions{})
	from := w.ends(t, schemas.Batches, schemas.KindCustomerEvents)
	run := freshKey()
	var repeated atomic.Int32
	var workers sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		workers.Go(func() {
			for i := range next {
				body := fmt.Sprintf(`[{"ref":"a","account":"%d"},{"ref":"b","account":"missing"},{"ref":"c","account":"%d"}]`, i, i)
				var answers [2]keyed
				var errs [2]error
				var both sync.WaitGroup
				for n, s := range replicas {
					both.Go(func() { answers[n], errs[n] = postKeyed(s, "/test", caller, body, fmt.Sprint(run, i)) })
				}
				both.Wait()
				a, b := answers[0], answers[1]
				switch {
				case errors.Join(errs[0], errs[1]) != nil || a.status != 200:
					t.Errorf("pair %d: status %d, %v: %s", i, a.status, errors.Join(errs[0], errs[1]), a.body)
				case a.status != b.status || a.body != b.body:
					t.Errorf("pair %d is answered %d %s and %d %s", i, a.status, a.body, b.status, b.body)
				case a.replayed == b.replayed:
					t.Errorf("pair %d: both say replayed %t", i, a.replayed)
				default:
					repeated.Add(1)
				}
			}
		})
	}
	for i := range pairs {
		next <- i
	}
	close(next)
	workers.Wait()
	if repeated.Load() != pairs {
		t.Errorf("%d of %d pairs are as they should be", repeated.Load(), pairs)
	}
	if n := len(w.read(t, schemas.Batches, from)); n != pairs {
		t.Errorf("%d batches, want %d", n, pairs)
	}
	if n := len(w.read(t, schemas.KindCustomerEvents, from)); n != 3*pairs {
		t.Errorf("%d items, want %d", n, 3*pairs)
	}
}

func TestAnUnreadableKeyIsRefusedAndARefusedRequestBindsNone(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	w.requests(t)
	s := w.start(t, nil)
	caller, key := w.keys.add(t, "demo", ingest.KeyOptions{}), freshKey()
	from := w.ends(t, schemas.Batches, schemas.Requests)
	for name, values := range map[string][]string{
		"empty": {""}, "too long": {strings.Repeat("k", 256)}, "not ASCII": {"schlüssel"}, "twice": {key, key}, "spaces only": {"  "},
	} {
		if k := mustKeyed(t, s, "/test", caller, twoItems, values...); k.status != 400 || !strings.Contains(k.body, `"code":"idempotency_key"`) {
			t.Errorf("%s: status %d: %s", name, k.status, k.body)
		}
	}
	tooMany := "[" + strings.Repeat(`{"account":"1"},`, ingest.MaxItems) + `{"account":"1"}]`
	for body, status := range map[string]int{`{`: 400, tooMany: 413} {
		if k := mustKeyed(t, s, "/test", caller, body, key); k.status != status {
			t.Errorf("status %d, want %d: %s", k.status, status, k.body)
		}
	}
	for _, topic := range []string{schemas.Batches, schemas.Requests} {
		if n := len(w.read(t, topic, from)); n != 0 {
			t.Errorf("%s has %d records of refused requests", topic, n)
		}
	}
	if k := mustKeyed(t, s, "/test", caller, twoItems, key); k.status != 200 || k.replayed {
		t.Errorf("the first that is accepted: status %d, replayed %t: %s", k.status, k.replayed, k.body)
	}
}

func TestARequestOfWhichNothingIsKnownYetIsToBeSentAgain(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	w.outcomesFrom(t)
	s := w.start(t, map[string]string{"REPLY_WAIT": "500ms"})
	caller, key := w.keys.add(t, "demo", ingest.KeyOptions{}), freshKey()
	from := w.ends(t, schemas.Batches, schemas.KindCustomerEvents)
	for range 2 { // nobody passes requests on
		if k := mustKeyed(t, s, "/test", caller, twoItems, key); k.status != 503 || k.header.Get("Retry-After") == "" || k.replayed {
			t.Fatalf("status %d, Retry-After %q: %s", k.status, k.header.Get("Retry-After"), k.body)
		}
	}
	w.requests(t)
	var again keyed
	for deadline := time.Now().Add(20 * time.Second); again.status != 200 && time.Now().Before(deadline); {
		again = mustKeyed(t, s, "/test", caller, twoItems, key)
	}
	if again.status != 200 || !again.replayed {
		t.Errorf("sent again: status %d, replayed %t: %s", again.status, again.replayed, again.body)
	}
	if n := len(w.read(t, schemas.Batches, from)); n != 1 {
		t.Errorf("%d batches, want 1", n)
	}
	if n := len(w.read(t, schemas.KindCustomerEvents, from)); n != 2 {
		t.Errorf("%d items, want 2", n)
	}
	for deadline := time.Now().Add(10 * time.Second); metric(t, s, "counterfoil_ingest_bytes_in_flight") != "0"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s bytes are in flight afterwards", metric(t, s, "counterfoil_ingest_bytes_in_flight"))
		}
	}
}

// What is not judged when the wait ends is pending for a repeated request as it was for the first, under the same number.
func TestARepeatedRequestIsPendingWhileTheFirstIs(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	w.requests(t)
	w.outcomesFrom(t)
	outcomes := w.reports.outcomes
	s := w.start(t, map[string]string{"REPLY_WAIT": "4s"})
	caller, key := w.keys.add(t, "demo", ingest.KeyOptions{}), freshKey()
	const body = `[{"ref":"a","account":"1"},{"ref":"b","account":"hold"}]`
	first := mustKeyed(t, s, "/test", caller, body, key)
	w.reports.outcomes = nil // ClickHouse cannot be asked
	unreadable := mustKeyed(t, s, "/test", caller, body, key)
	w.reports.outcomes = outcomes
	again := mustKeyed(t, s, "/test", caller, body, key)
	want := testAnswer{Number: first.answer(t).Number, Items: []string{"processed", "pending"}, IDs: first.answer(t).IDs, Numbers: first.answer(t).Numbers, Pending: 1}
	if diff := cmp.Diff(want, first.answer(t)); diff != "" || first.status != 202 {
		t.Errorf("first: status %d (-want +got):\n%s", first.status, diff)
	}
	want.Items, want.Numbers, want.Pending = []string{"pending", "pending"}, nil, 2
	if diff := cmp.Diff(want, unreadable.answer(t)); diff != "" || unreadable.status != 202 || !unreadable.replayed {
		t.Errorf("without ClickHouse: status %d, replayed %t (-want +got):\n%s", unreadable.status, unreadable.replayed, diff)
	}
	if again.status != 202 || !again.replayed || again.body != first.body || again.header.Get("Location") != ingest.JobURL(want.Number) {
		t.Errorf("again: status %d, replayed %t, Location %q: %s", again.status, again.replayed, again.header.Get("Location"), again.body)
	}
}

// A repeated request is in memory while it waits, so it counts.
func TestARepeatedRequestHoldsItsPlaceInTheBudgetWhileItWaits(t *testing.T) {
	const repetitions, size = 5, 900_000
	w := newWorld(t)
	w.requests(t) // and nobody judges
	s := w.start(t, map[string]string{"REPLY_WAIT": "6s"})
	var looks atomic.Int32
	w.reports.outcomes = func(string, string, string) ([]schemas.OutcomeReport, error) { looks.Add(1); return nil, nil }
	inFlight := func() float64 {
		n, err := strconv.ParseFloat(metric(t, s, "counterfoil_ingest_bytes_in_flight"), 64)
		check(t, err)
		return n
	}
	caller, key := w.keys.add(t, "demo", ingest.KeyOptions{}), freshKey()
	body := `[{"ref":"a","account":"1","text":"` + strings.Repeat("x", size) + `"}]`
	mustKeyed(t, s, "/test", caller, body, key)
	before := inFlight()
	var waiting sync.WaitGroup
	var ended atomic.Int32
	for range repetitions {
		waiting.Go(func() {
			defer ended.Add(1)
			if k, err := postKeyed(s, "/test", caller, body, key); err != nil || k.status != 202 || !k.replayed {
				t.Errorf("status %d, replayed %t, %v: %s", k.status, k.replayed, err, k.body)
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); looks.Load() < 4*repetitions && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if during := inFlight() - before; during < repetitions*size || ended.Load() > 0 {
		t.Errorf("%.0f bytes more are in flight while %d requests of %d bytes wait", during, repetitions-ended.Load(), size)
	}
	waiting.Wait()
	for deadline := time.Now().Add(10 * time.Second); inFlight() != before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%.0f bytes more are in flight afterwards", inFlight()-before)
		}
	}
}

// Who may wait for long is answered when the service stops: with the number where it is known, and else with the advice to ask again.
func TestKeyedRequestsThatWaitAreAnsweredWhenTheServiceDrains(t *testing.T) {
	w := newWorld(t)
	stopRequests := w.requests(t) // and nobody judges
	var looks atomic.Int32
	w.reports.outcomes = func(string, string, string) ([]schemas.OutcomeReport, error) { looks.Add(1); return nil, nil }
	s, stop := w.startUntil(t, w.broker.Opts(), map[string]string{"REPLY_WAIT": "1s", "INGEST_DRAIN_TIMEOUT": "8s"})
	caller, key := w.keys.add(t, "demo", ingest.KeyOptions{}), freshKey()
	eventually := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	type answer struct {
		keyed
		err error
	}
	send := func(key string) chan answer {
		answers := make(chan answer, 1)
		go func() {
			k, err := postKeyed(s, "/test?wait=60", caller, twoItems, key)
			answers <- answer{k, err}
		}()
		return answers
	}
	first := send(key)
	eventually("the first is not passed on", func() bool { return metric(t, s, "counterfoil_ingest_waiters") == "1" })
	repeated := send(key)
	eventually("nobody waits for the outcomes of the first", func() bool { return looks.Load() > 1 })
	stopRequests()
	from := w.ends(t, schemas.Requests)
	unknown := send(freshKey())
	eventually("the request is not stored", func() bool { return len(w.read(t, schemas.Requests, from)) > 0 })
	stop()
	begun := time.Now()
	for name, c := range map[string]struct {
		answers  chan answer
		status   int
		replayed bool
	}{"the first": {first, 202, false}, "the repeated": {repeated, 202, true}, "the unknown": {unknown, 503, false}} {
		got := <-c.answers
		if got.err != nil || got.status != c.status || got.replayed != c.replayed || c.status == 503 && got.header.Get("Retry-After") == "" {
			t.Errorf("%s: status %d, replayed %t, %v: %s", name, got.status, got.replayed, got.err, got.body)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the last of them was answered %v after the stop", took)
	}
}

// A request that waits for no outcomes is told its number all the same, and so is its repetition.
func TestRequestsThatDoNotWaitHaveTheirNumber(t *testing.T) {
	w := newWorld(t)
	w.requests(t)
	s := w.start(t, nil)
	caller, key := w.keys.add(t, "demo", ingest.KeyOptions{}), freshKey()
	first := mustKeyed(t, s, "/test?wait=0", caller, twoItems, key)
	again := mustKeyed(t, s, "/test?wait=0", caller, twoItems, key)
	if a := first.answer(t); first.status != 202 || a.Number == 0 || a.Pending != 2 {
		t.Errorf("status %d: %s", first.status, first.body)
	}
	if again.status != 202 || !again.replayed || again.answer(t).Number != first.answer(t).Number {
		t.Errorf("again: status %d, replayed %t: %s, want the number of %s", again.status, again.replayed, again.body, first.body)
	}
}

// With a key a request of which nobody knows whether it was committed has an answer: to send it again is safe.
func TestAnUnknownCommitOfAKeyedRequest(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	w.requests(t)
	w.outcomesFrom(t)
	caller := w.keys.add(t, "demo", ingest.KeyOptions{})
	other := w.start(t, nil)
	for _, c := range []struct {
		name    string
		first   fate // of the first EndTxn
		lookUp  bool // it is possible
		applied bool
		status  int
	}{
		{"that was applied is found", loseAnswer, true, true, 200},
		{"that was not applied is refused", drop, true, false, 503},
		{"that was applied and cannot be looked up", loseAnswer, false, true, 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &wire{}
			s := w.startOn(t, n, map[string]string{"INGEST_PRODUCERS": "1", "TRANSACTION_TIMEOUT": "2s", "REPLY_WAIT": "5s", "INGEST_PUBLISH_TIMEOUT": "2s"})
			key, from := freshKey(), w.ends(t, schemas.Batches)
			var ends atomic.Int32
			n.set(func(k kmsg.Key) fate {
				switch {
				case k == kmsg.InitProducerID && !c.lookUp:
					return stall
				case k == kmsg.InitProducerID:
					n.set(func(kmsg.Key) fate { return pass })
					return pass
				case k != kmsg.EndTxn:
					return pass
				case ends.Add(1) == 1:
					return c.first
				default:
					return drop
				}
			})
			k := mustKeyed(t, s, "/test", caller, twoItems, key)
			if k.status != c.status || k.status == 503 && k.header.Get("Retry-After") == "" || k.replayed {
				t.Errorf("status %d, Retry-After %q, replayed %t, want %d: %s", k.status, k.header.Get("Retry-After"), k.replayed, c.status, k.body)
			}
			if ends.Load() == 0 {
				t.Error("no commit was broken")
			}
			n.set(func(kmsg.Key) fate { return pass })
			again := mustKeyed(t, other, "/test", caller, twoItems, key)
			if again.status != 200 || again.replayed != c.applied || c.status == 200 && again.body != k.body {
				t.Errorf("sent again: status %d, replayed %t: %s, the first time %s", again.status, again.replayed, again.body, k.body)
			}
			if got := len(w.read(t, schemas.Batches, from)); got != 1 {
				t.Errorf("%d batches, want 1", got)
			}
		})
	}
}

// Requests that nobody passes on are a backlog: behind it new ones are refused.
func TestRequestsThatWaitToBePassedOnAreABacklog(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, map[string]string{"REPLY_WAIT": "100ms", "BACKLOG_LIMIT": "1s"})
	caller := w.keys.add(t, "demo", ingest.KeyOptions{})
	mustKeyed(t, s, "/test", caller, twoItems, freshKey())
	var k keyed
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if k = mustKeyed(t, s, "/test", caller, twoItems); k.status == 503 {
			break
		}
	}
	if k.status != 503 || !bytes.Contains([]byte(k.body), []byte("wait too long")) {
		t.Errorf("status %d: %s", k.status, k.body)
	}
	w.requests(t)
	for deadline := time.Now().Add(15 * time.Second); s.Ready() != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not ready after the requests were passed on: %v", s.Ready())
		}
		w.passItems(t)
	}
}

// passItems commits the ends of the item topics for those who would judge them.
func (w *world) passItems(t testing.TB) {
	t.Helper()
	ends := w.ends(t, schemas.KindCustomerEvents)
	if err := kadm.NewClient(w.client).CommitAllOffsets(t.Context(), schemas.GroupValidation, ends.Offsets()); err != nil {
		t.Fatal(err)
	}
}
