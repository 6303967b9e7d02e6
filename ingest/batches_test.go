package ingest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// get gets a path and returns the answer's status and compacted text.
func get(t *testing.T, s *ingest.Service, key, path string) (int, string, http.Header) {
	t.Helper()
	status, text, header := do(t, s, "GET", path, key, nil)
	return status, strings.TrimSpace(string(text)), header
}

func TestBatchesAreReadInTheFormsOfV1(t *testing.T) {
	w := newWorld(t)
	w.sink(t)
	s := w.start(t, nil)
	key, other := w.keys.add(t, "demo", ingest.KeyOptions{Doors: []string{ingest.DoorHelloID}}), w.keys.add(t, "other", ingest.KeyOptions{})
	ref := "a & b"
	w.reports.batches = []schemas.BatchReport{
		{Number: 16, Key: "k16", Tenant: "other", Kind: schemas.KindOwnership, Items: 1},
		{Number: 17, Key: "k17", Tenant: "demo", Kind: schemas.KindOwnership, Items: 4, Processed: 3, Unprocessed: 1},
		{Number: 18, Key: "k18", Tenant: "demo", Kind: schemas.KindOwnership, Items: 4, Processed: 1, Unprocessed: 1},
		{Number: 19, Key: "k19", Tenant: "demo", Kind: schemas.KindOwnership},
	}
	w.reports.items = map[string][]schemas.ItemReport{"k17": {
		{Index: 0, ID: "00", Ref: &ref},
		{Index: 1, ID: "11", Reasons: []schemas.Reason{{Code: schemas.CodeNotFound, Field: "account", Message: "There is no such account."}}},
		{Index: 2, ID: "22"},
		{Index: 3, ID: "33"},
	}}
	unprocessed := `{"index":1,"ref":null,"id":"11","outcome":"unprocessed","reasons":[{"code":"not_found","field":"account","message":"There is no such account."}]}`
	for _, c := range []struct {
		name, path, accept string
		status             int
		want               string
		next               string // in the header Link
	}{
		{name: "a batch", path: "/17", status: 200, want: `{"batch":17,"status":"complete","processed":3,"unprocessed":1,"pending":0}`},
		{name: "at work", path: "/18", status: 200, want: `{"batch":18,"status":"processing","processed":1,"unprocessed":1,"pending":2}`},
		{name: "empty", path: "/19", status: 200, want: `{"batch":19,"status":"complete","processed":0,"unprocessed":0,"pending":0}`},
		{name: "another tenant's", path: "/16", status: 404},
		{name: "none", path: "/99999", status: 404},
		{name: "no number", path: "/abc", status: 404},
		{name: "zero", path: "/0", status: 404},
		{name: "processed", path: "/17/processed?limit=2", status: 200, next: "/v1/batches/17/processed?after=2&limit=2",
			want: `{"items":[{"index":0,"ref":"a & b","id":"00","outcome":"processed"},{"index":2,"ref":null,"id":"22","outcome":"processed"}],"next":"2"}`},
		{name: "the next page", path: "/17/processed?limit=2&after=2", status: 200, want: `{"items":[{"index":3,"ref":null,"id":"33","outcome":"processed"}]}`},
		{name: "unprocessed", path: "/17/unprocessed", status: 200, want: `{"items":[` + unprocessed + `]}`},
		{name: "NDJSON", path: "/17/processed?limit=1", accept: "application/x-ndjson", status: 200, next: "/v1/batches/17/processed?after=0&limit=1",
			want: `{"index":0,"ref":"a & b","id":"00","outcome":"processed"}`},
		{name: "no items", path: "/19/processed", status: 200, want: `{"items":[]}`},
		{name: "items of another tenant's", path: "/16/unprocessed", status: 404},
		{name: "parameters that cannot be read", path: "?limit=%zz", status: 400},
		{name: "the list", path: "?limit=2", status: 200, next: "/v1/batches?after=18&limit=2",
			want: `{"batches":[{"batch":19,"status":"complete","processed":0,"unprocessed":0,"pending":0},{"batch":18,"status":"processing","processed":1,"unprocessed":1,"pending":2}],"next":"18"}`},
		{name: "its next page", path: "?limit=2&after=18", status: 200, want: `{"batches":[{"batch":17,"status":"complete","processed":3,"unprocessed":1,"pending":0}]}`},
		{name: "a bad limit", path: "?limit=x", status: 400},
		{name: "a bad after", path: "/17/processed?after=x", status: 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodGet, "http://"+s.Addr()+"/v1/batches"+c.path, nil)
			check(t, err)
			req.Header.Set("X-Api-Key", key)
			req.Header.Set("Accept", c.accept)
			res, err := http.DefaultClient.Do(req)
			check(t, err)
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			check(t, err)
			if res.StatusCode != c.status {
				t.Fatalf("status %d: %s", res.StatusCode, text)
			}
			if c.want != "" {
				if diff := cmp.Diff(c.want, strings.TrimSpace(string(text))); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			} else if res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("an error as %s", res.Header.Get("Content-Type"))
			}
			link := ""
			if c.next != "" {
				link = "<" + c.next + `>; rel="next"`
			}
			if got := res.Header.Get("Link"); got != link {
				t.Errorf("Link %q, want %q", got, link)
			}
		})
	}
	if status, _, header := get(t, s, "", "/v1/batches/17"); status != 401 || header.Get("WWW-Authenticate") == "" {
		t.Errorf("without a key: %d", status)
	}
	if status, text, _ := get(t, s, other, "/v1/batches"); status != 200 || !strings.Contains(text, `"batch":16`) || strings.Contains(text, `"batch":17`) {
		t.Errorf("the other tenant's list: %d %s", status, text)
	}
}

func TestABatchIsKnownFromItsAcceptanceAndNeverShownOlderThanItIs(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	w.sinkOff.Store(true)
	w.sink(t)
	s := w.start(t, map[string]string{"SINK_WAIT": "1s", "SINK_WAIT_START": "1s"})
	key, other := w.keys.add(t, "demo", ingest.KeyOptions{}), w.keys.add(t, "other", ingest.KeyOptions{})
	_, a := post(t, s, key, testItem{Account: "1"})
	path := ingest.JobURL(a.Number)
	if status, text, header := get(t, s, key, path); status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("before the sink has it: %d %s", status, text)
	}
	if status, text, _ := get(t, s, other, path); status != 404 {
		t.Errorf("another tenant: %d %s", status, text)
	}
	if status, text, _ := get(t, s, key, ingest.JobURL(a.Number+1)); status != 404 { // the offset of a marker
		t.Errorf("a number that was not given out: %d %s", status, text)
	}
	w.reports.mu.Lock()
	w.reports.batches = []schemas.BatchReport{{Number: a.Number, Tenant: "demo", Kind: schemas.KindCustomerEvents, Items: 1, Processed: 1}}
	w.reports.mu.Unlock()
	if status, text, _ := get(t, s, key, path); status != 503 {
		t.Errorf("while the sink's commit is behind: %d %s", status, text)
	}
	time.AfterFunc(100*time.Millisecond, func() { w.sinkOff.Store(false) })
	status, text, _ := get(t, s, key, path)
	var b struct{ Processed int }
	check(t, json.Unmarshal([]byte(text), &b))
	if status != 200 || b.Processed != 1 {
		t.Errorf("after: %d %s", status, text)
	}
}

// Somebody goes through all numbers: that tells nothing of other tenants, and costs Kafka no connections.
func TestNumbersOfOthersLookLikeNumbersThatWereNeverGiven(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	n := &wire{}
	s := w.startOn(t, n, nil)
	key, other := w.keys.add(t, "demo", ingest.KeyOptions{}), w.keys.add(t, "other", ingest.KeyOptions{})
	_, a := post(t, s, key, testItem{Account: "1"})
	type answer struct {
		status int
		text   string
		header string
	}
	answers := func() map[string]answer {
		all := map[string]answer{}
		for name, number := range map[string]int64{"another's": a.Number, "a marker's": a.Number + 1, "beyond the end": a.Number + 1000} {
			for _, below := range []string{"", "/processed", "/unprocessed"} {
				status, text, header := get(t, s, other, ingest.JobURL(number)+below)
				header.Del("X-Request-Id")
				header.Del("Date")
				all[name+below] = answer{status, text, fmt.Sprint(header)}
			}
		}
		return all
	}
	first := answers() // connects what is not connected yet
	before := n.dials.Load()
	for range 5 {
		answers()
	}
	if dials := n.dials.Load() - before; dials != 0 {
		t.Errorf("%d connections for 45 numbers", dials)
	}
	want := first["beyond the end"]
	if want.status != 404 {
		t.Errorf("status %d", want.status)
	}
	for name, got := range first {
		if got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestPathsAndMethodsThatV1DoesNotHaveAreProblems(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	for _, c := range []struct {
		method, path string
		status       int
		allow, code  string
	}{
		{"POST", "/v1/batches", 405, "GET, HEAD", "method"},
		{"DELETE", "/v1/batches/17", 405, "GET, HEAD", "method"},
		{"PUT", "/v1/batches/17/processed", 405, "GET, HEAD", "method"},
		{"OPTIONS", "/v1/batches/17/unprocessed", 405, "GET, HEAD", "method"},
		{"GET", "/v1", 404, "", "not_found"},
		{"GET", "/v1/", 404, "", "not_found"},
		{"GET", "/v1/nothing", 404, "", "not_found"},
		{"POST", "/v1/nothing", 404, "", "not_found"},
		{"GET", "/v1/batches/", 404, "", "not_found"},
		{"GET", "/v1/batches/17/", 404, "", "not_found"},
		{"GET", "/v1/batches/17/items", 404, "", "not_found"},
		{"GET", "/v1/batches/17/processed/", 404, "", "not_found"},
	} {
		status, body, header := do(t, s, c.method, c.path, key, nil)
		var p struct {
			Status int
			Code   string
		}
		if err := json.Unmarshal(body, &p); err != nil || header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %s as %q", c.method, c.path, body, header.Get("Content-Type"))
		}
		if status != c.status || p.Status != c.status || p.Code != c.code || header.Get("Allow") != c.allow {
			t.Errorf("%s %s: %d, Allow %q: %s", c.method, c.path, status, header.Get("Allow"), body)
		}
	}
}

func TestNDJSONIsChosenByItsQuality(t *testing.T) {
	w := newWorld(t)
	w.sink(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	for accept, want := range map[string]bool{
		"":                                       false,
		"*/*":                                    false,
		"text/html":                              false,
		"application/*":                          false,
		"application/x-ndjson":                   true,
		"Application/X-NDJSON":                   true,
		"application/x-ndjson, */*":              true,
		"application/x-ndjson;q=0":               false,
		"application/x-ndjson;q=0, */*":          false,
		"application/x-ndjson;q=nonsense":        false,
		"application/json, application/x-ndjson": false,
		"application/json, application/x-ndjson;q=0.5":   false,
		"application/json;q=0.5, application/x-ndjson":   true,
		"application/json;q=0.5,application/*;q=0.8":     true,
		"application/x-ndjson;q=0.5, */*;q=0.1":          true,
		"application/x-ndjson;q=0.1, application/*;q=.5": false,
	} {
		req, err := http.NewRequest(http.MethodGet, "http://"+s.Addr()+"/v1/batches", nil)
		check(t, err)
		req.Header.Set("X-Api-Key", key)
		req.Header.Set("Accept", accept)
		res, err := http.DefaultClient.Do(req)
		check(t, err)
		check(t, res.Body.Close())
		if got := res.Header.Get("Content-Type") == "application/x-ndjson"; got != want || res.StatusCode != 200 {
			t.Errorf("%q: %d as %s", accept, res.StatusCode, res.Header.Get("Content-Type"))
		}
	}
}
