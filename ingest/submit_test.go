package ingest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

func TestABatchIsAnsweredWithTheOutcomeOfEachItem(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	for _, c := range []struct {
		name  string
		items []testItem
		want  []string
	}{
		{"mixed", []testItem{{Ref: "a", Account: "1"}, {Ref: "b", Defect: true}, {Ref: "c", Account: "missing"}, {Ref: "d", Account: "2"}},
			[]string{"processed", "unprocessed invalid", "unprocessed not_found", "processed"}},
		{"one", []testItem{{Account: "1"}}, []string{"processed"}},
		{"all refused at the door", []testItem{{Defect: true}, {Defect: true}}, []string{"unprocessed invalid", "unprocessed invalid"}},
		{"none", []testItem{}, []string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, a := post(t, s, key, c.items...)
			if diff := cmp.Diff(c.want, a.Items); diff != "" || status != 200 || a.Pending != 0 {
				t.Errorf("status %d, %d pending (-want +got):\n%s", status, a.Pending, diff)
			}
		})
	}
	if got := metric(t, s, "counterfoil_ingest_bytes_in_flight"); got != "0" {
		t.Errorf("%s bytes are in flight afterwards", got)
	}
}

func TestNumbersGrowAndConcurrentBatchesGetTheirOwnOutcomes(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	services := []*ingest.Service{w.start(t, nil), w.start(t, map[string]string{"INGEST_PRODUCERS": "4", "INGEST_REPLY_PARTITIONS": "1"})}
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	var mu sync.Mutex
	numbers := map[int64]bool{}
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			last := int64(0)
			for i := range 20 {
				var items []testItem
				var want []string
				for k := range (n+i)%9 + 1 {
					switch (n + i + k) % 3 {
					case 0:
						items, want = append(items, testItem{Account: "1"}), append(want, "processed")
					case 1:
						items, want = append(items, testItem{Account: "missing"}), append(want, "unprocessed not_found")
					default:
						items, want = append(items, testItem{Defect: true}), append(want, "unprocessed invalid")
					}
				}
				status, a := post(t, services[n%2], key, items...)
				if diff := cmp.Diff(want, a.Items); diff != "" || status != 200 {
					t.Errorf("status %d (-want +got):\n%s", status, diff)
				}
				if a.Number <= last {
					t.Errorf("number %d follows %d", a.Number, last)
				}
				last = a.Number
				mu.Lock()
				if numbers[a.Number] {
					t.Errorf("number %d was given twice", a.Number)
				}
				numbers[a.Number] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

func TestWhatIsNotJudgedInTimeIsPendingAndNotRefused(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	s := w.start(t, map[string]string{"REPLY_WAIT": "5s"})
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	status, body, header := do(t, s, "POST", "/test", key, []testItem{{Account: "1"}, {Account: "hold"}, {Defect: true}})
	var a testAnswer
	check(t, json.Unmarshal(body, &a))
	if diff := cmp.Diff([]string{"processed", "pending", "unprocessed invalid"}, a.Items); diff != "" || status != 202 || a.Pending != 1 {
		t.Errorf("status %d, %d pending (-want +got):\n%s", status, a.Pending, diff)
	}
	if want := fmt.Sprintf("/v1/batches/%d", a.Number); header.Get("Location") != want {
		t.Errorf("Location %q, want %q", header.Get("Location"), want)
	}
	if got := metric(t, s, "counterfoil_ingest_pending_batches"); got != "1" {
		t.Errorf("%s batches are pending, want 1", got)
	}
}

func TestABatchThatWasGivenUpOnFreesItsBytesWhenItIsJudged(t *testing.T) {
	w := newWorld(t)
	w.judgeOff.Store(true)
	w.judge(t)
	s := w.start(t, map[string]string{"REPLY_WAIT": "50ms"})
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	if status, a := post(t, s, key, testItem{Account: "1"}); status != 202 || a.Pending != 1 {
		t.Fatalf("status %d, %d pending", status, a.Pending)
	}
	if got := metric(t, s, "counterfoil_ingest_bytes_in_flight"); got == "0" {
		t.Error("no bytes are in flight while an item is not judged")
	}
	w.judgeOff.Store(false)
	for deadline := time.Now().Add(20 * time.Second); metric(t, s, "counterfoil_ingest_bytes_in_flight") != "0"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the bytes stay in flight")
		}
	}
	if got := metric(t, s, "counterfoil_ingest_pending_batches"); got != "0" {
		t.Errorf("%s batches are pending", got)
	}
}

func TestAFullByteBudgetIs503AndEmptiesAgain(t *testing.T) {
	w := newWorld(t)
	w.judgeOff.Store(true)
	w.judge(t)
	s := w.start(t, map[string]string{"INGEST_BYTE_BUDGET": strconv.Itoa(2 * ingest.MaxBodyBytes), "INGEST_BUDGET_WAIT": "100ms", "REPLY_WAIT": "100ms"})
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	items := make([]testItem, 8)
	for i := range items {
		items[i] = testItem{Account: "1", Text: strings.Repeat("x", 900<<10)}
	}
	refused := false
	for range 8 {
		status, body, header := do(t, s, "POST", "/test", key, items)
		if status == 503 {
			refused = true
			if header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("503 with %v: %s", header, body)
			}
			break
		}
		if status != 202 {
			t.Fatalf("status %d: %s", status, body)
		}
	}
	if !refused {
		t.Fatal("nothing was refused")
	}
	w.judgeOff.Store(false)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if status, _ := post(t, s, key, items...); status == 200 || status == 202 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the budget stays full")
		}
	}
}

func TestAnOldBacklogIs503AndNotReady(t *testing.T) {
	w := newWorld(t)
	w.judgeOff.Store(true)
	w.judge(t)
	s := w.start(t, map[string]string{"BACKLOG_LIMIT": "1500ms", "REPLY_WAIT": "50ms"})
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	begun := time.Now()
	if status, _ := post(t, s, key, testItem{Account: "1"}); status != 202 {
		t.Fatalf("status %d", status)
	}
	for {
		status, body, header := do(t, s, "POST", "/test", key, []testItem{{Account: "1"}})
		if status == 503 {
			if header.Get("Retry-After") != "5" || !strings.Contains(string(body), "judged") {
				t.Errorf("503 with %v: %s", header, body)
			}
			break
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatal("nothing is refused")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if took := time.Since(begun); took < 1500*time.Millisecond {
		t.Errorf("refused after %s, before the limit", took)
	}
	if status, body, _ := do(t, s, "GET", "/readyz", "", nil); status != 503 || !strings.Contains(string(body), "oldest unjudged item") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	w.judgeOff.Store(false)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if status, _ := post(t, s, key, testItem{Account: "1"}); status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it stays refused")
		}
	}
	// Without traffic nothing grows old: markers at the end of a partition are passed too.
	time.Sleep(2500 * time.Millisecond)
	if err := s.Ready(); err != nil {
		t.Errorf("idle: %v", err)
	}
}

func TestAStopAnswersWhatIsAtWork(t *testing.T) {
	w := newWorld(t)
	w.judgeOff.Store(true)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	s, err := ingest.New(config(t, nil), ingest.Deps{Kafka: w.broker.Opts(), Registry: w.registry, Keys: w.keys, Reports: w.reports, Log: logger(t), Metrics: prometheus.NewRegistry()})
	check(t, err)
	register(s)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for s.Ready() != nil {
		time.Sleep(5 * time.Millisecond)
	}
	answered := make(chan testAnswer, 1)
	go func() {
		_, a := post(t, s, key, testItem{Account: "1"})
		answered <- a
	}()
	time.Sleep(200 * time.Millisecond)
	stop()
	time.Sleep(200 * time.Millisecond)
	if _, err := http.Get("http://" + s.Addr() + "/healthz"); err == nil {
		t.Error("a new connection is taken while it stops")
	}
	w.judgeOff.Store(false)
	if a := <-answered; len(a.Items) != 1 || a.Items[0] != "processed" {
		t.Errorf("the request at work was answered %v", a)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestItemsLieInThePartitionOfTheirKey(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, map[string]string{"REPLY_WAIT": "10ms"})
	user, sku := "j.doe", "APP-01"
	b := &ingest.Batch{Tenant: "demo", KeyID: "k", Door: ingest.DoorHelloID, Operation: "batch", Kind: schemas.KindOwnership}
	for i := range 20 {
		b.Items = append(b.Items, ingest.Item{Key: fmt.Appendf(nil, "key %d", i), Value: &schemas.Ownership{UserName: &user, ProductSKU: &sku}})
	}
	before := w.ends(t, schemas.KindOwnership)
	if _, err := s.Submit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	records := w.read(t, schemas.KindOwnership, before)
	if len(records) != len(b.Items) {
		t.Fatalf("%d records, want %d", len(records), len(b.Items))
	}
	for _, r := range records {
		e, err := schemas.ParseEnvelope(r.Headers)
		check(t, err)
		want := b.Items[e.Index].Key
		if string(r.Key) != string(want) || r.Partition != schemas.Partition(want, testPartitions) {
			t.Errorf("item %d lies in partition %d with key %q", e.Index, r.Partition, r.Key)
		}
		if e.Tenant != "demo" || e.Reply < 0 || e.Attempt != 1 {
			t.Errorf("item %d has envelope %+v", e.Index, e)
		}
	}
}
