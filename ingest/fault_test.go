package ingest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// wire is a network between a service and its broker that breaks where a test wants it to. It works the same on every broker.
type wire struct {
	// rule is asked for each request; nil: all passes.
	rule  atomic.Pointer[func(key kmsg.Key) fate]
	dials atomic.Int32 // connections that were made
}

// fate is what becomes of a request.
type fate int

const (
	pass       fate = iota
	drop            // the connection breaks before the request leaves
	loseAnswer      // the broker gets and handles it, then the connection breaks
	late            // the answer comes half a second later than it could
	stall           // the request is lost on its way, and no answer comes
)

func (n *wire) set(rule func(kmsg.Key) fate) { n.rule.Store(&rule) }

func (n *wire) opt() kgo.Opt {
	return kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		n.dials.Add(1)
		c, err := new(net.Dialer).DialContext(ctx, network, host)
		if err != nil {
			return nil, err
		}
		return &cut{Conn: c, wire: n}, nil
	})
}

type cut struct {
	net.Conn
	wire *wire
	late atomic.Bool
}

func (c *cut) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.late.CompareAndSwap(true, false) {
		time.Sleep(500 * time.Millisecond)
	}
	return n, err
}

var errCut = errors.New("the wire is cut")

// Write sees whole requests: size (4 bytes), key (2 bytes), ....
func (c *cut) Write(b []byte) (int, error) {
	rule := c.wire.rule.Load()
	if rule == nil || len(b) < 6 {
		return c.Conn.Write(b)
	}
	switch (*rule)(kmsg.Key(int16(binary.BigEndian.Uint16(b[4:])))) {
	case drop:
		_ = c.Close()
		return 0, errCut
	case loseAnswer:
		n, err := c.Conn.Write(b)
		time.Sleep(200 * time.Millisecond) // the broker is done with it
		_ = c.Close()
		if err == nil {
			err = errCut
		}
		return n, err
	case stall:
		return len(b), nil
	case late:
		c.late.Store(true)
	}
	return c.Conn.Write(b)
}

// startOn runs a service behind a wire.
func (w *world) startOn(t *testing.T, n *wire, vars map[string]string) *ingest.Service {
	t.Helper()
	return w.startWith(t, append(w.broker.Opts(), n.opt()), vars)
}

// stored reads what is committed: how many items, refused ones included, each batch key has, and how many its header says.
func (w *world) stored(t *testing.T) (items map[string]int, headers map[string]int) {
	t.Helper()
	items, headers = map[string]int{}, map[string]int{}
	decoder := schemas.NewDecoder[schemas.BatchHeader](w.registry, schemas.BatchHeaderSchema)
	for _, r := range w.read(t, schemas.Batches, nil) {
		var h schemas.BatchHeader
		err := decoder.Decode(r.Value, &h)
		for ; errors.Is(err, schemas.ErrSchemaPending); err = decoder.Decode(r.Value, &h) {
			time.Sleep(time.Millisecond)
		}
		check(t, err)
		headers[h.Key] += int(h.Items)
	}
	for _, topic := range []string{schemas.KindCustomerEvents, schemas.UnprocessedTopic(schemas.KindCustomerEvents)} {
		for _, r := range w.read(t, topic, nil) {
			e, err := schemas.ParseEnvelope(r.Headers)
			check(t, err)
			if !judged(topic, e) {
				items[e.Batch]++
			}
		}
	}
	return items, headers
}

// judged tells an outcome of the judge from one of the door, which has the reply partition in its envelope, as items have.
func judged(topic string, e schemas.Envelope) bool {
	return topic == schemas.UnprocessedTopic(schemas.KindCustomerEvents) && e.Reply < 0
}

func TestACommitWithUnknownOutcomeIsLookedUp(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	for _, c := range []struct {
		name       string
		first      fate // of the first EndTxn; what follows is dropped until a new producer id is asked for
		wantStatus int
	}{
		{"that was applied is accepted", loseAnswer, 200},
		{"that was not applied is refused", drop, 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &wire{}
			s := w.startOn(t, n, map[string]string{"INGEST_PRODUCERS": "1", "TRANSACTION_TIMEOUT": "3s", "REPLY_WAIT": "5s"})
			warm(t, s, key)
			_, before := w.stored(t)
			var ends atomic.Int32
			n.set(func(k kmsg.Key) fate {
				switch {
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
			status, body, header := do(t, s, "POST", "/test", key, []testItem{{Ref: "a", Account: "1"}, {Ref: "b", Defect: true}})
			if status != c.wantStatus {
				t.Fatalf("status %d, want %d: %s", status, c.wantStatus, body)
			}
			if status == 503 && header.Get("Retry-After") == "" {
				t.Error("a refusal without Retry-After")
			}
			if ends.Load() < 1 {
				t.Error("no commit was broken")
			}
			items, headers := w.stored(t)
			want := len(before)
			if c.wantStatus == 200 {
				want++
			}
			if len(headers) != want {
				t.Errorf("%d batches are stored, want %d", len(headers), want)
			}
			if fmt.Sprint(items) != fmt.Sprint(headers) {
				t.Errorf("items %v, headers %v", items, headers)
			}
			if status, a := post(t, s, key, testItem{Ref: "after", Account: "1"}); status != 200 || a.Items[0] != "processed" {
				t.Errorf("afterwards: status %d, %v", status, a)
			}
		})
	}
}

// Kafka is away for longer than a batch is counted as in flight, and nobody knows whether the last commit was applied.
func TestALongOutageAfterAnUnknownCommitGivesTheBytesBackOnce(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	n := &wire{}
	s := w.startOn(t, n, map[string]string{
		"INGEST_PRODUCERS": "1", "INGEST_PUBLISH_TIMEOUT": "20s", "TRANSACTION_TIMEOUT": "2s", "REPLY_WAIT": "2s", "BACKLOG_LIMIT": "2s",
	})
	warm(t, s, key)
	expired := metric(t, s, "counterfoil_ingest_expired_batches_total")
	var away atomic.Bool
	n.set(func(k kmsg.Key) fate {
		if k == kmsg.EndTxn {
			away.Store(true)
		}
		if away.Load() {
			return drop
		}
		return pass
	})
	time.AfterFunc(6*time.Second, func() { n.set(func(kmsg.Key) fate { return pass }) })
	if status, body, _ := do(t, s, "POST", "/test", key, []testItem{{Ref: "a", Account: "1"}}); status != 503 {
		t.Errorf("status %d, want 503: %s", status, body)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if status, _ := post(t, s, key, testItem{Ref: "after", Account: "1"}); status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it did not recover")
		}
	}
	if got := metric(t, s, "counterfoil_ingest_bytes_in_flight"); got != "0" {
		t.Errorf("%s bytes are in flight afterwards", got)
	}
	if got := metric(t, s, "counterfoil_ingest_expired_batches_total"); got != expired {
		t.Errorf("%s batches count as accepted and not judged, and %s before", got, expired)
	}
}

func TestACommitThatCannotBeLookedUpInTimeClosesTheConnectionWithoutAnAnswer(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	for _, c := range []struct {
		name  string
		first fate // of the commit; then Kafka is away
		more  int  // batches that are stored in the end
	}{
		{"and which was applied", loseAnswer, 1},
		{"and which was not applied", drop, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &wire{}
			s := w.startOn(t, n, map[string]string{"INGEST_PRODUCERS": "1", "INGEST_PUBLISH_TIMEOUT": "2s", "TRANSACTION_TIMEOUT": "2s", "REPLY_WAIT": "2s"})
			warm(t, s, key)
			_, before := w.stored(t)
			accepted, err := strconv.Atoi(metric(t, s, `counterfoil_ingest_batches_total{door="crm.com",kind="customer_events"}`))
			check(t, err)
			var away atomic.Bool
			n.set(func(k kmsg.Key) fate {
				switch {
				case away.Load():
					return drop
				case k == kmsg.EndTxn:
					away.Store(true)
					return c.first
				}
				return pass
			})
			begun := time.Now()
			req, err := http.NewRequest(http.MethodPost, "http://"+s.Addr()+"/test", strings.NewReader(`[{"account":"1"},{"defect":true}]`))
			check(t, err)
			req.Header.Set("X-Api-Key", key)
			if res, err := http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
				t.Errorf("answered %s", res.Status)
			}
			if took := time.Since(begun); took < 4*time.Second || took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			if got := metric(t, s, `counterfoil_ingest_unanswered_total{cause="time"}`); got != "1" {
				t.Errorf("%s requests count as not answered", got)
			}
			// The outcomes of a batch that was stored can come, and its bytes be given back, before the look-up has found it.
			if got := metric(t, s, "counterfoil_ingest_bytes_in_flight"); got == "0" && c.more == 0 {
				t.Error("no bytes are in flight while the commit is looked up")
			}
			n.set(func(kmsg.Key) fate { return pass })
			for deadline := time.Now().Add(20 * time.Second); metric(t, s, "counterfoil_ingest_bytes_in_flight") != "0"; time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the bytes stay in flight")
				}
			}
			w.decided(t, schemas.Batches, schemas.KindCustomerEvents, schemas.UnprocessedTopic(schemas.KindCustomerEvents))
			items, headers := w.stored(t)
			if len(headers) != len(before)+c.more || !maps.Equal(items, headers) {
				t.Errorf("stored are items %v, headers %v; before %v", items, headers, before)
			}
			got, want := "", fmt.Sprint(accepted+c.more)
			for deadline := time.Now().Add(20 * time.Second); got != want && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				got = metric(t, s, `counterfoil_ingest_batches_total{door="crm.com",kind="customer_events"}`)
			}
			if got != want {
				t.Errorf("%s batches count as accepted, want %s", got, want)
			}
		})
	}
}

// Requests run while the wire to the broker breaks at random places. Whatever was answered 2xx is stored whole, once; whatever was refused
// is not stored at all.
func TestWhateverBreaksABatchIsAcceptedWholeOrNotAtAll(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	_, before := w.stored(t)
	n := &wire{}
	// REPLY_WAIT is long enough for every look-up, so that every request gets its answer.
	s := w.startOn(t, n, map[string]string{"TRANSACTION_TIMEOUT": "2s", "INGEST_PUBLISH_TIMEOUT": "1s", "REPLY_WAIT": "60s"})
	var broken atomic.Int32
	n.set(func(k kmsg.Key) fate {
		if k != kmsg.Produce && k != kmsg.EndTxn && k != kmsg.InitProducerID {
			return pass
		}
		f := pass
		switch r := rand.IntN(100); {
		case r < 4:
			f = drop
		case r < 8:
			f = loseAnswer
		case r < 10:
			f = stall
		}
		if f != pass {
			broken.Add(1)
		}
		return f
	})
	var mu sync.Mutex
	accepted, refused, sent := map[int64]int{}, 0, 0
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 25 {
				var items []testItem
				for k := range 1 + i%7 {
					items = append(items, testItem{Ref: fmt.Sprint(k), Account: "1", Defect: k%3 == 2})
				}
				status, a := post(t, s, key, items...)
				mu.Lock()
				sent++
				switch status {
				case 200, 202:
					accepted[a.Number] = len(items)
				case 503:
					refused++
				default:
					t.Errorf("status %d", status)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	n.set(func(kmsg.Key) fate { return pass })
	t.Logf("%d requests, %d accepted, %d refused, %d breaks", sent, len(accepted), refused, broken.Load())
	if len(accepted)+refused != sent {
		t.Errorf("%d numbers were given to %d accepted requests", len(accepted), sent-refused)
	}
	if broken.Load() < 10 || len(accepted) < 10 {
		t.Errorf("%d breaks and %d accepted requests show little", broken.Load(), len(accepted))
	}
	items, headers := w.stored(t)
	for k := range before {
		delete(headers, k)
		delete(items, k)
	}
	if len(headers) != len(accepted) {
		t.Errorf("%d batches are stored, %d were accepted", len(headers), len(accepted))
	}
	if !maps.Equal(items, headers) {
		t.Errorf("batches are stored in part: items %v, headers %v", items, headers)
	}
	sum := 0
	for _, n := range accepted {
		sum += n
	}
	for _, n := range headers {
		sum -= n
	}
	if sum != 0 {
		t.Errorf("%d accepted items are not stored", sum)
	}
}

func TestAStalledBrokerIsRefusedInTimeAndNothingComesLater(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	n := &wire{}
	s := w.startOn(t, n, map[string]string{"INGEST_PUBLISH_TIMEOUT": "500ms"})
	_, before := w.stored(t)
	n.set(func(k kmsg.Key) fate {
		if k == kmsg.Produce || k == kmsg.InitProducerID {
			return stall
		}
		return pass
	})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			begun := time.Now()
			if status, _ := post(t, s, key, testItem{Ref: "a", Account: "1"}); status != http.StatusServiceUnavailable {
				t.Errorf("status %d", status)
			}
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("refused after %s", took)
			}
		})
	}
	all.Wait()
	n.set(func(kmsg.Key) fate { return pass })
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if status, _ := post(t, s, key, testItem{Ref: "b", Account: "1"}); status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it did not recover")
		}
	}
	if _, after := w.stored(t); len(after) != len(before)+1 {
		t.Errorf("%d batches are stored, want %d", len(after), len(before)+1)
	}
}

func TestOutcomesThatComeBeforeTheAnswerToTheCommitAreNotMissed(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	n := &wire{}
	s := w.startOn(t, n, nil)
	n.set(func(k kmsg.Key) fate {
		if k == kmsg.EndTxn {
			return late
		}
		return pass
	})
	begun := time.Now()
	status, a := post(t, s, key, testItem{Account: "1"}, testItem{Account: "missing"})
	if status != 200 || a.Pending != 0 {
		t.Errorf("status %d, %d pending", status, a.Pending)
	}
	if took := time.Since(begun); took < 500*time.Millisecond {
		t.Errorf("it took %s, and the commit's answer takes 500ms", took)
	}
}

func TestAnOutcomeWhoseTransactionIsAbortedIsNeverShown(t *testing.T) {
	w := newWorld(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	s := w.start(t, nil)
	before := w.ends(t, schemas.KindCustomerEvents)
	answer := make(chan testAnswer, 1)
	go func() {
		_, a := post(t, s, key, testItem{Account: "1"})
		answer <- a
	}()
	var items []*kgo.Record
	for deadline := time.Now().Add(10 * time.Second); len(items) == 0; items = w.read(t, schemas.KindCustomerEvents, before) {
		if time.Now().After(deadline) {
			t.Fatal("no item came")
		}
		time.Sleep(20 * time.Millisecond)
	}
	e, err := schemas.ParseEnvelope(items[0].Headers)
	check(t, err)
	encoder, err := w.registry.Encoder(t.Context(), schemas.UnprocessedTopic(schemas.KindCustomerEvents))
	check(t, err)
	processor, err := kgo.NewClient(append(w.broker.Opts(), kgo.TransactionalID("judge-"+e.Batch), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))...)
	check(t, err)
	defer processor.Close()
	for _, round := range []struct {
		code string
		end  kgo.TransactionEndTry
	}{{schemas.CodeInternalError, kgo.TryAbort}, {schemas.CodeNotFound, kgo.TryCommit}} {
		value, err := encoder.Append(nil, &schemas.Unprocessed{
			Outcome: schemas.Outcome{Tenant: e.Tenant, ID: schemas.ItemID(e.Tenant, e.Batch, e.Index), Batch: &e.Batch, Attempt: 1, SourceTopic: schemas.KindCustomerEvents},
			Kind:    schemas.KindCustomerEvents, Reasons: []schemas.Reason{{Code: round.code}}, Format: schemas.FormatAvro,
		})
		check(t, err)
		check(t, processor.BeginTransaction())
		check(t, processor.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.UnprocessedTopic(schemas.KindCustomerEvents), Partition: e.Reply, Headers: e.Headers(nil), Value: value}).FirstErr())
		time.Sleep(300 * time.Millisecond) // a reader of uncommitted records would have it now
		check(t, processor.EndTransaction(t.Context(), round.end))
	}
	if a := <-answer; len(a.Items) != 1 || a.Items[0] != "unprocessed "+schemas.CodeNotFound {
		t.Errorf("answered %v", a.Items)
	}
}

func TestAStopBeforeACommitIsKnownClosesTheConnectionWithoutAnAnswer(t *testing.T) {
	w := newWorld(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	n := &wire{}
	s, err := ingest.New(config(t, map[string]string{"INGEST_DRAIN_TIMEOUT": "500ms", "TRANSACTION_TIMEOUT": "1s", "REPLY_WAIT": "100ms"}), ingest.Deps{
		Kafka: append(w.broker.Opts(), n.opt()), Registry: w.registry, Keys: w.keys, Reports: w.reports, Log: logger(t), Metrics: prometheus.NewRegistry(),
	})
	check(t, err)
	register(s)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for s.Ready() != nil {
		time.Sleep(5 * time.Millisecond)
	}
	n.set(func(k kmsg.Key) fate {
		switch k {
		case kmsg.EndTxn:
			return loseAnswer
		case kmsg.InitProducerID:
			return stall
		}
		return pass
	})
	answered := make(chan error, 1)
	go func() {
		req, err := http.NewRequest(http.MethodPost, "http://"+s.Addr()+"/test", strings.NewReader(`[{"account":"1"}]`))
		if err == nil {
			req.Header.Set("X-Api-Key", key)
			var res *http.Response
			if res, err = http.DefaultClient.Do(req); err == nil {
				err = fmt.Errorf("answered %s", res.Status)
				_ = res.Body.Close()
				answered <- err
				return
			}
		}
		answered <- nil
	}()
	time.Sleep(2 * time.Second)
	stop()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Run did not end")
	}
}

func TestTwoCopiesOfOneInstanceEndWithAnErrorThatNamesTheSetting(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	cfg := config(t, map[string]string{"INGEST_PRODUCERS": "1", "REPLY_WAIT": "100ms"})
	cfg.Instance = "same"
	ended := make(chan error, 2)
	var services []*ingest.Service
	for range 2 {
		s, err := ingest.New(cfg, ingest.Deps{Kafka: w.broker.Opts(), Registry: w.registry, Keys: w.keys, Reports: w.reports, Log: logger(t), Metrics: prometheus.NewRegistry()})
		check(t, err)
		register(s)
		services = append(services, s)
		ctx, stop := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() { ended <- s.Run(ctx) })
		t.Cleanup(func() { stop(); done.Wait() })
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		for _, s := range services {
			body := strings.NewReader(`[{"ref":"a","account":"1"}]`)
			req, err := http.NewRequest(http.MethodPost, "http://"+s.Addr()+"/test", body)
			check(t, err)
			req.Header.Set("X-Api-Key", key)
			if res, err := http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
			}
		}
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "INSTANCE") {
				t.Fatalf("Run: %v", err)
			}
			return
		default:
		}
	}
	t.Fatal("both go on")
}

// Who asks whether the service is ready is told what it lacks, and not where its parts are.
func TestReadinessNamesNoAddress(t *testing.T) {
	w := newWorld(t)
	failed := &saying{text: "not connected yet", said: make(chan struct{})}
	s, err := ingest.New(config(t, nil), ingest.Deps{
		Kafka: []kgo.Opt{kgo.SeedBrokers("127.0.0.1:1"), kgo.RequestRetries(1)}, Registry: w.registry, Keys: w.keys, Reports: w.reports,
		Log: slog.New(slog.NewTextHandler(failed, nil)), Metrics: prometheus.NewRegistry(),
	})
	check(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	late := time.After(30 * time.Second)
	for more := 5; more > 0; time.Sleep(50 * time.Millisecond) { // until it has failed, and a little longer
		select {
		case <-failed.said:
			more--
		case <-late:
			t.Fatal("it does not say that it cannot connect")
		default:
		}
		if problem := s.Ready(); problem == nil || strings.Contains(problem.Error(), "127.0.0.1") {
			t.Fatalf("ready says %v", problem)
		}
	}
	stop()
	check(t, <-ended)
}

// saying is where a log goes of which one event matters.
type saying struct {
	text string
	once sync.Once
	said chan struct{} // closed when an event with the text has come
}

func (s *saying) Write(event []byte) (int, error) {
	if strings.Contains(string(event), s.text) {
		s.once.Do(func() { close(s.said) })
	}
	return len(event), nil
}
