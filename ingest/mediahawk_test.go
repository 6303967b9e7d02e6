package ingest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/mediahawk"
	"github.com/counterfoil/counterfoil/schemas"
)

// sale is one sale of a Mediahawk request.
func sale(id int) string {
	return fmt.Sprintf(`{"id":"INV-%07d","description":"Annual service","date":"2023-02-28","value":"249.99","mhid":"QX81LLP2","clis":["447700900123"],"properties":[{"key":1,"value":"north"}]}`, id)
}

// A Mediahawk batch is answered once it is committed, before anybody has judged it, and from then on it is never unknown: a GET waits for
// ClickHouse, or says when to come back.
func TestAMediahawkBatchIsKnownFromItsAnswerOn(t *testing.T) {
	w := newWorld(t)
	w.sinkOff.Store(true)
	w.sink(t)
	s := w.start(t, map[string]string{"REPLY_WAIT": "30s", "SINK_WAIT": "200ms", "SINK_WAIT_START": "200ms"})
	mediahawk.New(s, w.reports).Register(s.Mux())
	key, other := w.keys.add(t, "demo", ingest.KeyOptions{}), w.keys.add(t, "other", ingest.KeyOptions{})
	from := w.ends(t, schemas.KindSales)

	const path = "/rest/v2_0/sales/batches"
	begun := time.Now()
	status, body, _ := do(t, s, "POST", path, key, []byte(`{"lookback":12,"sales":[`+sale(1)+`,`+sale(2)+`,`+sale(1)+`]}`))
	var b struct {
		ID       int64
		Lookback int32
		Status   string
	}
	if err := json.Unmarshal(body, &b); err != nil || status != 200 || b.ID < 1 || b.Lookback != 12 || b.Status != "processing" {
		t.Fatalf("%d %s", status, body)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it was answered after %v", took)
	}
	if sales := w.read(t, schemas.KindSales, from); len(sales) != 2 {
		t.Errorf("%d sales, the repeated one was not dropped", len(sales))
	}
	one := fmt.Sprintf("%s/%d", path, b.ID)
	for _, path := range []string{one, path} {
		if status, body, header := do(t, s, "GET", path, key, nil); status != 503 || header.Get("Retry-After") == "" || !strings.HasPrefix(string(body), `{"message":`) {
			t.Errorf("%s while the sink stands: %d %s", path, status, body)
		}
	}
	if status, body, _ := do(t, s, "GET", one, other, nil); status != 404 {
		t.Errorf("another tenant: %d %s", status, body)
	}

	months := int32(12)
	report := schemas.BatchReport{Number: b.ID, Tenant: "demo", Door: ingest.DoorMediahawk, Kind: schemas.KindSales, Lookback: &months, Items: 2}
	for _, step := range []struct {
		processed, unprocessed int64
		want                   string
	}{{0, 0, "processing"}, {1, 0, "processing"}, {1, 1, "complete"}} {
		report.Processed, report.Unprocessed = step.processed, step.unprocessed
		w.reports.mu.Lock()
		w.reports.batches = []schemas.BatchReport{report}
		w.reports.mu.Unlock()
		w.sinkOff.Store(false)
		want := fmt.Sprintf(`{"id":%d,"lookback":12,"status":%q,"successes":%d,"errors":%d}`, b.ID, step.want, step.processed, step.unprocessed)
		if status, body, _ := do(t, s, "GET", one, key, nil); status != 200 || string(body) != want {
			t.Errorf("%d %s, want %s", status, body, want)
		}
		if status, body, _ := do(t, s, "GET", path, key, nil); status != 200 || string(body) != "["+want+"]" {
			t.Errorf("the list: %d %s", status, body)
		}
	}
}

// BenchmarkMediahawk is ingest's own part of uploads of 1,000 sales over HTTP: parse, check, encode, commit in a transaction. The figure to
// look at is sales/s.
func BenchmarkMediahawk(b *testing.B) {
	w := newWorld(b)
	s := w.start(b, map[string]string{"BACKLOG_LIMIT": "1h", "INGEST_BYTE_BUDGET": "8000000000"})
	mediahawk.New(s, w.reports).Register(s.Mux())
	key := w.keys.add(b, "demo", ingest.KeyOptions{})
	sales := make([]string, 1000)
	for i := range sales {
		sales[i] = sale(i)
	}
	body := []byte(`{"lookback":12,"sales":[` + strings.Join(sales, ",") + `]}`)
	b.ReportAllocs()
	b.ResetTimer()
	begun := time.Now()
	const callers = 4
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for range (b.N + c) / callers {
				if status, answer, _ := do(b, s, "POST", "/sales/batches", key, body); status != 200 {
					b.Errorf("%d %s", status, answer)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N*len(sales))/time.Since(begun).Seconds(), "sales/s")
}
