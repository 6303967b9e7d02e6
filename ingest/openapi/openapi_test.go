package openapi_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/avon"
	"github.com/counterfoil/counterfoil/ingest/caliq"
	"github.com/counterfoil/counterfoil/ingest/crmcom"
	"github.com/counterfoil/counterfoil/ingest/helloid"
	"github.com/counterfoil/counterfoil/ingest/mediahawk"
	"github.com/counterfoil/counterfoil/ingest/openapi"
	"github.com/counterfoil/counterfoil/ingest/v1"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/schemas/plainjson"
	"github.com/counterfoil/counterfoil/test/openapicheck"
)

func load(t *testing.T) *openapicheck.Document {
	t.Helper()
	d, err := openapicheck.Load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// allRoutes is a mux with what every door registers.
func allRoutes() *http.ServeMux {
	mux := http.NewServeMux()
	v1.New(nil).Register(mux)
	openapi.Register(mux)
	crmcom.New(nil).Register(mux)
	helloid.New(nil, nil).Register(mux)
	mediahawk.New(nil, nil).Register(mux)
	avon.New(nil).Register(mux)
	caliq.New(nil, nil).Register(mux)
	return mux
}

// patterns are those that a mux has. It does not show them, so that this looks into it: a new version of Go may need another way.
func patterns(t *testing.T, mux *http.ServeMux) []string {
	t.Helper()
	index := reflect.ValueOf(mux).Elem().FieldByName("index")
	var all []string
	add := func(list reflect.Value) {
		for i := range list.Len() {
			all = append(all, list.Index(i).Elem().FieldByName("str").String())
		}
	}
	add(index.FieldByName("multis"))
	for it := index.FieldByName("segments").MapRange(); it.Next(); {
		add(it.Value())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// refusals are the patterns that answer only for what there is not.
var refusals = []string{
	"/v1", "/v1/", crmcom.Base, helloid.Base, helloid.Base + "/", "GET " + helloid.Base + "/batch", "GET " + helloid.Base + "/batch/{$}", "GET " + helloid.Base + "/csv",
	"GET " + helloid.Base + "/csv/{$}", mediahawk.Root, mediahawk.Root + "/", "/sales", "/sales/", avon.Path + "/", "/{path}",
}

func TestEveryRouteIsDocumentedAndEveryDocumentedOneIsThere(t *testing.T) {
	d, mux := load(t), allRoutes()
	hit := map[string]bool{}
	core := []string{"/healthz", "/readyz", "/metrics"} // registered by the service itself
	for name, item := range d.Spec.Paths.Map() {
		if slices.Contains(core, name) {
			continue
		}
		path := strings.NewReplacer("{number}", "17", "{id}", "17", "{sku}", "A1", "{kind}", "web").Replace(name)
		for method := range item.Operations() {
			_, pattern := mux.Handler(httptest.NewRequest(method, path, nil))
			if pattern == "" || slices.Contains(refusals, pattern) {
				t.Errorf("%s %s is documented and not there: %q", method, name, pattern)
			}
			hit[strings.ToLower(pattern)] = true
		}
	}
	for _, kind := range []string{"achievements", "purchases", "referrals", "social_media", "financial_achievements", "financial_statements"} {
		for _, end := range []string{"", "/"} {
			_, pattern := mux.Handler(httptest.NewRequest(http.MethodPost, crmcom.Base+"customer_events/bulk/"+kind+"/create"+end, nil))
			hit[strings.ToLower(pattern)] = true
		}
	}
	all := patterns(t, mux)
	if len(all) < 40 {
		t.Fatalf("only %d patterns were found: %q", len(all), all)
	}
	for _, p := range all {
		known := strings.ToLower(p) // one partner's paths are registered in every mixture of cases
		switch {
		case hit[known], slices.Contains(refusals, p):
		default:
			t.Errorf("%s is not documented", p)
		}
	}
}

func TestRefusalsAreRefusals(t *testing.T) {
	mux := allRoutes()
	for _, pattern := range refusals {
		method, path, ok := strings.Cut(pattern, " ")
		if !ok {
			method, path = http.MethodDelete, pattern
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(method, strings.TrimSuffix(path, "{$}"), nil))
		if w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed && !(strings.HasPrefix(path, "/crmapi/") && strings.Contains(w.Body.String(), "Is Not a Web API Method")) {
			t.Errorf("%s: %d %s", pattern, w.Code, w.Body)
		}
	}
}

// The service's own routes, without a cluster behind them.
func TestTheDocumentIsServedAndCanBeRead(t *testing.T) {
	d := load(t)
	registry := prometheus.NewRegistry()
	s, err := ingest.New(ingest.Config{
		Addr: "127.0.0.1:0", Wait: 1, DrainTimeout: 1, BodyTimeout: 1, Producers: 1, PublishTimeout: 1, TxnTimeout: 1, ReplyPartitions: 1, ByteBudget: 64 << 20,
		BudgetWait: 1, BacklogLimit: 1, SinkWait: 1, TokenSecrets: []string{"a secret for tests"},
	}, ingest.Deps{Log: discard(), Metrics: registry, Gatherer: registry})
	if err != nil {
		t.Fatal(err)
	}
	openapi.Register(s.Mux())
	for _, path := range []string{"/openapi.yaml", "/docs", "/healthz", "/metrics"} {
		req := httptest.NewRequest(http.MethodGet, path, nil)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
		}
		if err := d.Response(req, w.Result(), w.Body.Bytes()); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		switch path {
		case "/openapi.yaml":
			if !bytes.Equal(w.Body.Bytes(), openapi.Document()) {
				t.Error("another document is served")
			}
		case "/docs":
			for name := range d.Spec.Paths.Map() {
				if !strings.Contains(w.Body.String(), name) {
					t.Errorf("%s is not on the page", name)
				}
			}
			for _, outside := range []string{"<script", "src=", "http://", "https://", "@import", "url("} {
				if strings.Contains(w.Body.String(), outside) {
					t.Errorf("the page has %s", outside)
				}
			}
		}
	}
}

// What the document says of an item is what the door says of it.
func TestItemsAreDescribedAsTheyAreRead(t *testing.T) {
	d := load(t)
	for _, c := range []struct {
		kind, item string
		good       bool
	}{
		{"sales", `{"ref":"a","id":"1","date":"2016-02-29","clis":["0791"],"lookback":3,"properties":[{"key":"a","value":null}]}`, true},
		{"sales", `{"ref":7,"id":null}`, true},
		{"sales", `{"id":1}`, false}, {"sales", `{"nothing":1}`, false}, {"sales", `{"ref":[]}`, false}, {"sales", `{"clis":"0791"}`, false}, {"sales", `null`, false},
		{"sales", `{"properties":null}`, false},
		{"customer-events", `{"kind":"web","account":{"number":"A"},"unit":{"name":"U"},"performed_on":"2016-06-22T15:00:00","udf_float_1":1.5,"amount":"1.50"}`, true},
		{"customer-events", `{"kind":"web","performed_on":1466607600000,"products":[{"quantity":2,"product":{"code":"B"}}]}`, true},
		{"customer-events", `{"account":{"number":"A"}}`, false}, {"customer-events", `{"kind":"web","account":{"name":1}}`, false}, {"customer-events", `{"kind":"web","account":{"nam":"x"}}`, false},
		{"ownership", `{"user_name":"a","quantity":3,"has_product":true,"clear":["source"]}`, true},
		{"ownership", `{"quantity":"3"}`, false}, {"ownership", `{"quantity":1.5}`, false}, {"ownership", `{"has_product":"true"}`, false},
		{"order-lines", `{"id":"1","customer":77,"product":"P","quantity":"-2.5","ordered_on":"2016-02-29"}`, true},
		{"order-lines", `{"id":"1","customer":77,"product":"P","quantity":-2.5}`, false}, {"order-lines", `{"id":"1","customer":"77","product":"P","quantity":1,"ordered_on":"2016-02-29"}`, false},
		{"stock", `{"product":"P","available_now":0,"next_available_on":null}`, true}, {"stock", `{"product":null,"available_now":0}`, false},
		{"products", `{"id":"1","number":7,"code":"P","barcodes":[]}`, true}, {"products", `{"id":"1","code":"P","barcodes":["5"]}`, true},
		{"transactions", `{"bee_number_customer":1.5,"transaction_time":"2015-03-02T10:15:00.1234567Z"}`, true},
	} {
		body := []byte("[" + c.item + "]")
		req := httptest.NewRequest(http.MethodPost, "/v1/"+c.kind, bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		if err := d.Request(req, body); (err == nil) != c.good {
			t.Errorf("%s %s: the document says %v", c.kind, c.item, err)
		}
		if read := readable(t, c.kind, c.item); read != c.good {
			t.Errorf("%s %s: the door takes it: %t", c.kind, c.item, read)
		}
	}
}

func readable(t *testing.T, kind, item string) bool {
	t.Helper()
	i := slices.IndexFunc(v1.Kinds(), func(k *v1.Kind) bool { return k.Name == kind })
	codec, err := plainjson.New(0, v1.Kinds()[i].Schema.Text())
	if err != nil {
		t.Fatal(err)
	}
	o, err := plainjson.Parse([]byte(item))
	if err != nil {
		return false
	}
	_, bad := o.TakeRef("ref")
	_, defects, err := codec.Append(nil, o)
	return err == nil && bad == nil && len(defects) == 0
}

// What a client that is made of the document relies on, and no exchange of other tests shows.
func TestWhatAClientIsTold(t *testing.T) {
	d := load(t)
	const create, release, auto = crmcom.Base + "customer_events/bulk/{kind}/create", crmcom.Base + "authentication/token/release", "/json/reply/FinancialTransactionsBatchCreate[]"
	for _, path := range []string{create, create + "/", release, release + "/"} {
		security := d.Spec.Paths.Value(path).Post.Security
		if security == nil || len(*security) < 2 || len((*security)[0]) != 0 {
			t.Errorf("%s cannot be called with a token in the body: %v", path, security)
		}
	}
	for _, c := range []struct{ path, status, header string }{
		{create, "200", "Idempotent-Replayed"}, {create, "202", "Idempotent-Replayed"}, {create, "default", "Retry-After"},
		{helloid.Base, "200", "Idempotent-Replayed"}, {helloid.Base, "202", "Location"}, {helloid.Base, "default", "Location"}, {helloid.Base, "default", "WWW-Authenticate"},
		{"/sales/batches", "200", "Idempotent-Replayed"}, {"/sales/batches", "default", "Retry-After"}, {"/sales/batches", "default", "WWW-Authenticate"},
		{avon.Path, "204", "Idempotent-Replayed"}, {avon.Path, "202", "Location"}, {avon.Path, "default", "Location"}, {avon.Path, "default", "Retry-After"},
		{auto, "200", "X-AutoBatch-Completed"}, {auto, "204", "X-AutoBatch-Completed"}, {auto, "default", "X-AutoBatch-Completed"}, {auto, "default", "Location"},
		{"/api/v1/CustomerBuyingReport", "default", "WWW-Authenticate"}, {"/api/v1/CustomerBuyingReport", "default", "Retry-After"},
	} {
		if d.Spec.Paths.Value(c.path).Post.Responses.Value(c.status).Value.Headers[c.header] == nil {
			t.Errorf("%s: %s has no %s", c.path, c.status, c.header)
		}
	}
	for _, path := range []string{create, helloid.Base, "/sales/batches", avon.Path, auto} {
		if text := *d.Spec.Paths.Value(path).Post.Responses.Value("default").Value.Description; !strings.Contains(text, "503 to a request with Idempotency-Key") {
			t.Errorf("%s: %s", path, text)
		}
	}
	if d.Spec.Paths.Value(avon.Path).Post.Responses.Value("200").Value.Content["application/csv"] == nil {
		t.Error("Avon has no answer in application/csv")
	}
	for path, item := range d.Spec.Paths.Map() {
		if strings.HasPrefix(path, "/v1/batches") && item.Get.Responses.Value("500") == nil {
			t.Errorf("%s has no 500", path)
		}
	}
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/sales/batches?limit=0", ""}, {"POST", auto, `[{"financialTransactions":[{}]},null]`}, {"POST", strings.ReplaceAll(auto, "[]", "%5B%5D"), `[]`},
		{"POST", "/Financial-Transaction-Batches.JSON", `{}`}, {"POST", "/json/reply/FinancialTransactionsBatchCreate/", `{}`},
	} {
		req := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		req.Header.Set("Content-Type", "application/json")
		if err := d.Request(req, []byte(c.body)); err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
		}
	}
}

func TestEveryKindHasItsPathAndAllItsFields(t *testing.T) {
	d := load(t)
	for _, k := range v1.Kinds() {
		item := d.Spec.Paths.Value("/v1/" + k.Name)
		if item == nil || item.Post == nil {
			t.Errorf("there is no POST /v1/%s", k.Name)
			continue
		}
		if example := item.Post.RequestBody.Value.Content["application/json"].Example; !exampleIsGood(t, d, k, example) {
			t.Errorf("the example of %s is not good: %v", k.Name, example)
		}
		array := item.Post.RequestBody.Value.Content["application/json"].Schema.Value.OneOf[0].Value
		var got []string
		for name := range array.Items.Value.Properties {
			got = append(got, name)
		}
		slices.Sort(got)
		want := append([]string{"ref"}, fieldsOf(t, k.Schema)...)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", k.Name, diff)
		}
	}
}

// exampleIsGood reports whether the door and the document take the items of an example.
func exampleIsGood(t *testing.T, d *openapicheck.Document, k *v1.Kind, example any) bool {
	t.Helper()
	body, err := json.Marshal(example)
	if err != nil {
		t.Fatal(err)
	}
	var items []json.RawMessage
	if err := json.Unmarshal(body, &items); err != nil || len(items) == 0 {
		return false
	}
	req := httptest.NewRequest(http.MethodPost, "/v1/"+k.Name, bytes.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if err := d.Request(req, body); err != nil {
		t.Error(err)
		return false
	}
	return !slices.ContainsFunc(items, func(item json.RawMessage) bool { return !readable(t, k.Name, string(item)) })
}

func fieldsOf(t *testing.T, s *schemas.Schema) (names []string) {
	t.Helper()
	var record struct {
		Fields []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(s.Text()), &record); err != nil {
		t.Fatal(err)
	}
	for _, f := range record.Fields {
		names = append(names, f.Name)
	}
	return names
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
