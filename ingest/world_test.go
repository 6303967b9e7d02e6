package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/v1"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
)

func TestMain(m *testing.M) { stack.Main(m) }

const testPartitions = 4

// world is a broker with all topics, a registry with all schemas, a judge that writes outcomes as the processors do, a sink that only
// commits offsets, and services on top.
type world struct {
	broker   *stack.Broker
	client   *kgo.Client
	admin    *kadm.Client
	registry *schemas.Registry
	keys     *keyTable
	reports  *reportTable
	sinkOff  atomic.Bool // the sink stands still
	judgeOff atomic.Bool // the judge stands still
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{broker: stack.Kafka(t), keys: &keyTable{}, reports: &reportTable{}}
	var err error
	w.client, err = kgo.NewClient(append(w.broker.Opts(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.ProducerBatchMaxBytes(4<<20))...)
	check(t, err)
	t.Cleanup(w.client.Close)
	w.admin = kadm.NewClient(w.client)
	for _, topic := range schemas.Topics() {
		n := int32(topic.Partitions)
		if n == 0 {
			n = testPartitions
		}
		config := map[string]*string{}
		for k, v := range topic.Config {
			config[k] = &v
		}
		if _, err := w.admin.CreateTopic(t.Context(), n, 1, config, topic.Name); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			t.Fatal(err)
		}
	}
	w.registry, err = schemas.NewRegistry(schemas.RegistryConfig{URL: []string{stack.Registry(t)}, ConfirmAfter: time.Second, RememberFor: time.Minute}, logger(t))
	check(t, err)
	_, err = w.registry.Register(t.Context(), false)
	check(t, err)
	for _, group := range []string{schemas.GroupUpserts, schemas.GroupValidation, schemas.GroupMatching, schemas.GroupRequests, schemas.GroupSink} {
		w.commitEnds(t, group)
	}
	return w
}

func logger(t testing.TB) *slog.Logger {
	if os.Getenv("TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// allTopics are those that groups commit.
func allTopics() []string {
	var names []string
	for _, topic := range schemas.Topics() {
		names = append(names, topic.Name)
	}
	return names
}

// ends are the high watermarks of topics; a real broker needs a moment for topics that were just created.
func (w *world) ends(t testing.TB, topics ...string) kadm.ListedOffsets {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ends, err := w.admin.ListEndOffsets(t.Context(), topics...)
		if err == nil {
			err = ends.Error()
		}
		if err == nil {
			return ends
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// commitEnds commits the high watermarks of all topics for a group.
func (w *world) commitEnds(t testing.TB, group string) {
	t.Helper()
	ends := w.ends(t, allTopics()...)
	if err := w.admin.CommitAllOffsets(t.Context(), group, ends.Offsets()); err != nil && t.Context().Err() == nil {
		t.Fatal(err)
	}
}

// judge starts the fake processors: an item whose account is numbered "missing" is unprocessed, one numbered "hold" is left alone, all
// others are processed.
func (w *world) judge(t testing.TB) {
	t.Helper()
	ends := w.ends(t, schemas.KindCustomerEvents, schemas.KindOwnership)
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if from[o.Topic] == nil {
			from[o.Topic] = map[int32]kgo.Offset{}
		}
		from[o.Topic][o.Partition] = kgo.NewOffset().At(o.Offset)
	})
	reader, err := kgo.NewClient(append(slices.Concat(w.broker.Opts(), schemas.ConsumeCommitted()), kgo.ConsumePartitions(from))...)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	t.Cleanup(func() { cancel(); done.Wait(); reader.Close() })
	events := schemas.NewDecoder[schemas.CustomerEvent](w.registry, schemas.CustomerEventSchema)
	processed, err := w.registry.Encoder(ctx, schemas.ProcessedTopic(schemas.KindCustomerEvents))
	check(t, err)
	unprocessed, err := w.registry.Encoder(ctx, schemas.UnprocessedTopic(schemas.KindCustomerEvents))
	check(t, err)
	done.Go(func() {
		for ctx.Err() == nil {
			fetches := reader.PollFetches(ctx)
			for w.judgeOff.Load() && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			var out []*kgo.Record
			at := kadm.Offsets{}
			fetches.EachRecord(func(r *kgo.Record) {
				at.AddOffset(r.Topic, r.Partition, r.Offset+1, -1)
				if r.Attrs.IsControl() {
					return
				}
				e, err := schemas.ParseEnvelope(r.Headers)
				if err != nil {
					panic(err)
				}
				var item schemas.CustomerEvent
				for err = events.Decode(r.Value, &item); errors.Is(err, schemas.ErrSchemaPending); err = events.Decode(r.Value, &item) {
					time.Sleep(time.Millisecond)
				}
				if err != nil {
					panic(err)
				}
				outcome := schemas.Outcome{Tenant: e.Tenant, ID: schemas.ItemID(e.Tenant, e.Batch, e.Index), Batch: &e.Batch, Index: e.Index, Attempt: 1, Ref: e.Ref,
					SourceTopic: r.Topic, SourcePartition: r.Partition, SourceOffset: r.Offset, AcceptedAt: r.Timestamp, JudgedAt: time.Now()}
				reply := e.Reply
				e.Reply = -1
				o := &kgo.Record{Partition: reply, Headers: e.Headers(nil)}
				switch *item.Account.Number {
				case "hold":
					return
				case "missing":
					o.Topic = schemas.UnprocessedTopic(r.Topic)
					o.Value, err = unprocessed.Append(nil, &schemas.Unprocessed{Outcome: outcome, Kind: r.Topic, Reasons: notFound, Format: schemas.FormatAvro, Original: r.Value})
				default:
					o.Topic = schemas.ProcessedTopic(r.Topic)
					o.Value, err = processed.AppendWithItem(nil, &schemas.EventResult{Outcome: outcome, Kind: item.Kind, Number: schemas.Number(r.Partition, r.Offset, testPartitions)}, r.Value, &item)
				}
				if err != nil {
					panic(err)
				}
				out = append(out, o, o) // twice, as overlapping tails or a replay would: duplicates must change nothing
			})
			for _, o := range out {
				c := *o
				w.client.Produce(ctx, &c, nil)
			}
			_ = w.client.Flush(ctx)
			if len(at) > 0 {
				_ = w.admin.CommitAllOffsets(ctx, schemas.GroupValidation, at)
			}
		}
	})
}

var notFound = []schemas.Reason{{Code: schemas.CodeNotFound, Field: "account", Message: "There is no such account."}}

// sink starts the fake sink: it commits the ends of all topics, over and over, while it is not off.
func (w *world) sink(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	t.Cleanup(func() { cancel(); done.Wait() })
	done.Go(func() {
		for ctx.Err() == nil {
			if !w.sinkOff.Load() {
				if ends, err := w.admin.ListEndOffsets(ctx, allTopics()...); err == nil {
					_ = w.admin.CommitAllOffsets(ctx, schemas.GroupSink, ends.Offsets())
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}

// keyTable is a table of API keys that is always complete.
type keyTable struct {
	mu   sync.Mutex
	keys map[string]*schemas.APIKey
}

func (k *keyTable) APIKey(id string) *schemas.APIKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[id]
}

func (k *keyTable) Ready() error { return nil }

// add makes a key and returns its text.
func (k *keyTable) add(t testing.TB, tenant string, o ingest.KeyOptions) string {
	t.Helper()
	key, record, err := ingest.NewKey(tenant, o)
	check(t, err)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = map[string]*schemas.APIKey{}
	}
	k.keys[record.ID] = record
	return key
}

// change replaces the record of a key.
func (k *keyTable) change(key string, change func(*schemas.APIKey)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := ingest.KeyCredential(key).ID
	record := *k.keys[id]
	change(&record)
	k.keys[id] = &record
}

// reportTable stands for ClickHouse where a test is about ingest's side of the reports.
type reportTable struct {
	mu      sync.Mutex
	batches []schemas.BatchReport
	items   map[string][]schemas.ItemReport // by batch key; those with reasons are unprocessed

	failAfter int32 // items behind this index cannot be read; 0: all can

	onBatches func(before int64) // called before a page of batches is read; nil: nothing

	outcomes func(tenant, kind, key string) ([]schemas.OutcomeReport, error) // nil: they cannot be read
}

func (r *reportTable) Ownership(context.Context, string, string) ([]schemas.OwnershipReport, error) {
	return nil, nil
}

func (r *reportTable) BuyingReport(context.Context, schemas.BuyingReportParams) ([]schemas.BuyingReportItem, error) {
	return nil, nil
}

func (r *reportTable) Batch(_ context.Context, tenant string, number int64) (*schemas.BatchReport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.batches {
		if r.batches[i].Tenant == tenant && r.batches[i].Number == number {
			return &r.batches[i], nil
		}
	}
	return nil, nil
}

func (r *reportTable) Batches(_ context.Context, tenant string, before int64, limit int) ([]schemas.BatchReport, error) {
	if r.onBatches != nil {
		r.onBatches(before)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []schemas.BatchReport
	for _, b := range slices.Backward(r.batches) {
		if b.Tenant == tenant && (before == 0 || b.Number < before) && len(out) < limit {
			out = append(out, b)
		}
	}
	return out, nil
}

func (r *reportTable) DoorBatches(_ context.Context, tenant, door string, offset int64, limit int) ([]schemas.BatchReport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []schemas.BatchReport
	for _, b := range slices.Backward(r.batches) {
		if b.Tenant != tenant || b.Door != door {
			continue
		}
		if offset--; offset < 0 && len(out) < limit {
			out = append(out, b)
		}
	}
	return out, nil
}

func (r *reportTable) BatchItems(_ context.Context, tenant, kind, key string, processed bool, after int32, limit int) ([]schemas.ItemReport, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failAfter > 0 && after >= r.failAfter {
		return nil, errors.New("ClickHouse is gone")
	}
	var out []schemas.ItemReport
	for _, i := range r.items[key] {
		if (len(i.Reasons) == 0) == processed && i.Index > after && len(out) < limit {
			out = append(out, i)
		}
	}
	return out, nil
}

// BatchOutcomes reads what the judge wrote, instead of what the sink would have made of it.
func (r *reportTable) BatchOutcomes(ctx context.Context, tenant, kind, key string) ([]schemas.OutcomeReport, error) {
	if r.outcomes == nil {
		return nil, errors.New("there are no outcomes here")
	}
	return r.outcomes(tenant, kind, key)
}

// testItem is an item of the test door.
type testItem struct {
	Ref     string `json:"ref"`
	Account string `json:"account"`
	Defect  bool   `json:"defect,omitempty"`
	Text    string `json:"text,omitempty"`
}

// testAnswer is what the test door answers.
type testAnswer struct {
	Number  int64    `json:"number"`
	Items   []string `json:"items"` // processed, unprocessed <codes>, pending
	IDs     []string `json:"ids"`
	Numbers []int64  `json:"numbers"` // of processed events
	Pending int      `json:"pending"`
}

// register adds our own API, and the test door: POST /test and POST /other take an array of testItem, and with wait=N wait N seconds for
// outcomes.
func register(s *ingest.Service) {
	v1.New(s).Register(s.Mux())
	serve := func(rw http.ResponseWriter, r *http.Request) {
		answer, err := submit(s, r)
		if err != nil {
			ingest.NoteError(r, err)
			ingest.WriteProblem(rw, err)
			return
		}
		status := http.StatusOK
		if answer.Pending > 0 {
			status = http.StatusAccepted
			rw.Header().Set("Location", ingest.JobURL(answer.Number))
		}
		ingest.WriteJSON(rw, status, answer)
	}
	s.Mux().HandleFunc("POST /test", serve)
	s.Mux().HandleFunc("POST /other", serve)
	s.Mux().HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("secret internals") })
}

func submit(s *ingest.Service, r *http.Request) (*testAnswer, error) {
	caller, err := s.Authenticate(r, ingest.DoorCRM)
	if err != nil {
		return nil, err
	}
	body, err := s.ReadBody(r)
	if err != nil {
		return nil, err
	}
	var items []testItem
	if ingest.TooDeep(body) || json.Unmarshal(body, &items) != nil {
		return nil, ingest.NewError(ingest.CodeMalformed, "not a list")
	}
	batch := testBatch(caller.Tenant, items)
	batch.Operation = r.URL.Path
	if seconds, err := strconv.Atoi(r.URL.Query().Get("wait")); err == nil {
		wait := time.Duration(seconds) * time.Second
		batch.Wait = &wait
	}
	receipt, err := s.Submit(r.Context(), batch)
	if err != nil {
		return nil, err
	}
	a := &testAnswer{Number: receipt.Number, Pending: receipt.Pending, Items: []string{}}
	for i, res := range receipt.Results {
		a.IDs = append(a.IDs, res.ID)
		switch {
		case res.Index != i || len(res.ID) != 32:
			return nil, fmt.Errorf("result %d has index %d and id %q", i, res.Index, res.ID)
		case res.Processed != nil:
			p := res.Processed.(*schemas.EventResult)
			if p.Index != int32(i) || p.ID != res.ID {
				return nil, fmt.Errorf("result %d is that of %d", i, p.Index)
			}
			a.Items, a.Numbers = append(a.Items, "processed"), append(a.Numbers, p.Number)
		case res.Reasons != nil:
			text := "unprocessed"
			for _, reason := range res.Reasons {
				text += " " + reason.Code
			}
			a.Items = append(a.Items, text)
		default:
			a.Items = append(a.Items, "pending")
		}
	}
	return a, nil
}

func testBatch(tenant string, items []testItem) *ingest.Batch {
	b := &ingest.Batch{Tenant: tenant, KeyID: "test", Door: ingest.DoorCRM, Operation: "test", Kind: schemas.KindCustomerEvents, ItemKind: schemas.EventWeb}
	for _, it := range items {
		item := ingest.Item{Ref: &it.Ref, Format: schemas.FormatJSON, Original: []byte(it.Ref)}
		if it.Defect {
			item.Defects = []schemas.Reason{{Code: schemas.CodeInvalid, Field: "account", Message: "The account is no text."}}
		} else {
			item.Value = &schemas.CustomerEvent{Kind: schemas.EventWeb, Account: &schemas.AccountIdentifier{Number: &it.Account}, EventCommon: schemas.EventCommon{Description: &it.Text}}
		}
		b.Items = append(b.Items, item)
	}
	return b
}

// config is the default configuration with what tests always need and the given variables.
func config(t testing.TB, vars map[string]string) ingest.Config {
	t.Helper()
	all := map[string]string{"HTTP_ADDR": "127.0.0.1:0", "TOKEN_SECRETS": "a secret for tests", "SINK_WAIT_START": "2s", "TRANSACTION_TIMEOUT": "5s"}
	maps.Copy(all, vars)
	cfg, err := env.ParseAsWithOptions[ingest.Config](env.Options{Environment: all})
	check(t, err)
	return cfg
}

// start runs a service and waits until it is ready. Its end is checked when the test ends.
func (w *world) start(t testing.TB, vars map[string]string) *ingest.Service {
	t.Helper()
	return w.startWith(t, w.broker.Opts(), vars)
}

func (w *world) startWith(t testing.TB, kafka []kgo.Opt, vars map[string]string) *ingest.Service {
	t.Helper()
	s, _ := w.startUntil(t, kafka, vars)
	return s
}

// startUntil is startWith for a service that is told to stop before the test ends.
func (w *world) startUntil(t testing.TB, kafka []kgo.Opt, vars map[string]string) (s *ingest.Service, stop context.CancelFunc) {
	t.Helper()
	metrics := prometheus.NewRegistry()
	s, err := ingest.New(config(t, vars), ingest.Deps{
		Kafka: kafka, Registry: w.registry, Keys: w.keys, Reports: w.reports, Log: logger(t), Metrics: metrics, Gatherer: metrics,
	})
	check(t, err)
	register(s)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("Run did not end")
		}
	})
	for deadline := time.Now().Add(20 * time.Second); s.Ready() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v", s.Ready())
		}
	}
	return s, stop
}

// metric reads the value of a metric without labels.
func metric(t testing.TB, s *ingest.Service, name string) string {
	t.Helper()
	_, body, _ := do(t, s, "GET", "/metrics", "", nil)
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("there is no metric %s", name)
	return ""
}

// read returns the committed records of a topic from the given offsets to its end, without markers. It waits until what lies before the end
// is decided: the marker that does so may lie beyond.
func (w *world) read(t testing.TB, topic string, from kadm.ListedOffsets) []*kgo.Record {
	t.Helper()
	ends, left := w.ends(t, topic), map[int32]kgo.Offset{}
	for p, end := range ends[topic] {
		if end.Offset > from[topic][p].Offset {
			left[p] = kgo.NewOffset().At(from[topic][p].Offset)
		}
	}
	if len(left) == 0 {
		return nil
	}
	reader, err := kgo.NewClient(append(slices.Concat(w.broker.Opts(), schemas.ConsumeCommitted()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: left}))...)
	check(t, err)
	defer reader.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out []*kgo.Record
	for len(left) > 0 {
		fetches := reader.PollFetches(ctx)
		check(t, ctx.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			end := ends[topic][r.Partition].Offset
			if r.Offset >= end-1 {
				delete(left, r.Partition)
			}
			if r.Offset < end && !r.Attrs.IsControl() {
				out = append(out, r)
			}
		})
	}
	return out
}

// do sends a request and returns the answer's status, body and headers.
func do(t testing.TB, s *ingest.Service, method, path, key string, body any) (int, []byte, http.Header) {
	t.Helper()
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		content = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		check(t, err)
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, "http://"+s.Addr()+path, content)
	check(t, err)
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := http.DefaultClient.Do(req)
	check(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	check(t, err)
	return res.StatusCode, text, res.Header
}

// post sends items through the test door.
func post(t testing.TB, s *ingest.Service, key string, items ...testItem) (int, testAnswer) {
	t.Helper()
	status, body, _ := do(t, s, "POST", "/test", key, items)
	var a testAnswer
	if status < 300 {
		check(t, json.Unmarshal(body, &a))
	}
	return status, a
}

// warm waits until the service gives a batch its outcomes within REPLY_WAIT: the first of a process takes longest.
func warm(t testing.TB, s *ingest.Service, key string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		switch status, _ := post(t, s, key, testItem{Ref: "warm", Account: "1"}); {
		case status == http.StatusOK:
			return
		case time.Now().After(deadline):
			t.Fatalf("before: status %d", status)
		}
	}
}

func TestReadEndsWhereTheMarkerOfAnAbortLiesBeyondTheEnd(t *testing.T) {
	w := newWorld(t)
	from := w.ends(t, schemas.Batches)
	producer, err := kgo.NewClient(append(w.broker.Opts(), kgo.TransactionalID("reads-"+t.Name()), kgo.ProducerLinger(0))...)
	check(t, err)
	defer producer.Close()
	for _, c := range []struct {
		how  kgo.TransactionEndTry
		want int
	}{{kgo.TryCommit, 1}, {kgo.TryAbort, 1}} {
		check(t, producer.BeginTransaction())
		check(t, producer.ProduceSync(t.Context(), &kgo.Record{Topic: schemas.Batches, Value: []byte("x")}).FirstErr())
		ended := make(chan error, 1)
		time.AfterFunc(300*time.Millisecond, func() { ended <- producer.EndTransaction(t.Context(), c.how) })
		if got := len(w.read(t, schemas.Batches, from)); got != c.want {
			t.Errorf("%d records, want %d", got, c.want)
		}
		check(t, <-ended)
	}
}
