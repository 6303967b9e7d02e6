package processors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
)

func TestMain(m *testing.M) { stack.Main(m) }

const (
	partitions = 4
	tenant     = "acme"
	batchKey   = "0123456789abcdef0123456789abcdef"
)

// world is a broker with all topics, a registry with all schemas, and a producer.
type world struct {
	t        testing.TB
	broker   *stack.Broker
	registry schemas.RegistryConfig
	schemas  *schemas.Registry
	client   *kgo.Client
	admin    *kadm.Client
	encoders map[string]*schemas.Encoder
	calls    *callsTable
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, broker: stack.Kafka(t), encoders: map[string]*schemas.Encoder{}, calls: &callsTable{}}
	w.registry = schemas.RegistryConfig{URL: []string{stack.Registry(t)}, ConfirmAfter: 300 * time.Millisecond, RememberFor: time.Minute}
	w.schemas = w.newRegistry()
	if _, err := w.schemas.Register(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	w.client = w.newClient(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	w.admin = kadm.NewClient(w.client)
	w.createTopics()
	for _, name := range Names() {
		w.commitStart(Group(name), Topics(name))
	}
	return w
}

func (w *world) newRegistry() *schemas.Registry {
	r, err := schemas.NewRegistry(w.registry, w.log())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) log() *slog.Logger {
	out := io.Discard
	if os.Getenv("TEST_LOG") != "" {
		out = os.Stderr
	}
	return slog.New(slog.NewTextHandler(out, nil))
}

func (w *world) newClient(opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kgo.NewClient(append(w.broker.Opts(), opts...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Close)
	return cl
}

// createTopics creates every topic. A real broker is shared by the tests of a process, so what an earlier test left is deleted first.
func (w *world) createTopics() {
	w.t.Helper()
	ctx := w.t.Context()
	if w.broker.Fake == nil {
		var names []string
		for _, topic := range schemas.Topics() {
			names = append(names, topic.Name)
		}
		_, _ = w.admin.DeleteTopics(ctx, names...)
		for _, name := range Names() {
			_, _ = w.admin.DeleteGroups(ctx, Group(name))
		}
		_, _ = w.admin.DeleteGroups(ctx, schemas.GroupSink)
		w.eventually("topics are deleted", func() error {
			found, err := w.admin.ListTopics(ctx, names...)
			for _, d := range found {
				if d.Err == nil {
					return fmt.Errorf("%s is still there", d.Topic)
				}
			}
			return err
		})
	}
	for _, topic := range schemas.Topics() {
		count := int32(partitions)
		if topic.Partitions > 0 {
			count = int32(topic.Partitions)
		}
		config := map[string]*string{}
		for k, v := range topic.Config {
			config[k] = &v
		}
		w.eventually("create "+topic.Name, func() error {
			_, err := w.admin.CreateTopic(ctx, count, 1, config, topic.Name)
			return err
		})
	}
}

func (w *world) commitStart(group string, topics []string) {
	w.t.Helper()
	offsets := kadm.Offsets{}
	for _, topic := range topics {
		for p := range int32(partitions) {
			offsets.Add(kadm.Offset{Topic: topic, Partition: p, At: 0, LeaderEpoch: -1})
		}
	}
	w.eventually("commit start", func() error {
		return w.admin.CommitAllOffsets(w.t.Context(), group, offsets)
	})
}

func (w *world) encode(topic string, v any) []byte {
	w.t.Helper()
	e := w.encoders[topic]
	if e == nil {
		var err error
		if e, err = w.schemas.Encoder(w.t.Context(), topic); err != nil {
			w.t.Fatal(err)
		}
		w.encoders[topic] = e
	}
	b, err := e.Append(nil, v)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// produce writes records and waits for the acknowledgement.
func (w *world) produce(recs ...*kgo.Record) {
	w.t.Helper()
	if err := w.client.ProduceSync(w.t.Context(), recs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func envelope(e schemas.Envelope) []kgo.RecordHeader {
	if e.Tenant == "" {
		e.Tenant = tenant
	}
	if e.Attempt == 0 {
		e.Attempt = 1
	}
	return e.Headers(nil)
}

func bare() []kgo.RecordHeader { return envelope(schemas.Envelope{Reply: -1}) }

// reference writes a reference record and waits for its acknowledgement.
func (w *world) reference(topic string, v schemas.Reference) {
	w.t.Helper()
	w.produce(&kgo.Record{Topic: topic, Key: schemas.ReferenceKey(tenant, v.OwnID()), Headers: []kgo.RecordHeader{schemas.TenantHeader(tenant)}, Value: w.encode(topic, v)})
}

// copyOf is a running copy of a processor.
type copyOf struct {
	*Processor
	w       *world
	network *network
	end     context.CancelFunc
	done    chan error
	once    sync.Once
	err     error
}

func testConfig() Config {
	return Config{
		TransactionTimeout: 2 * time.Second, SessionTimeout: 2 * time.Second,
		RoundRecords: 10_000, RoundTime: 200 * time.Millisecond, DrainTimeout: 5 * time.Second,
	}
}

// start runs a copy with its own network and its own registry client.
func (w *world) start(name string, change func(*Config)) *copyOf {
	w.t.Helper()
	return w.startWith(name, change, nil)
}

// epochs are those of the world, in which two topics are in their second life.
var epochs = schemas.Epochs{schemas.Batches: {Number: 1, Base: 100}, schemas.KindCustomerEvents: {Number: 1, Base: 1000}}

func (w *world) startWith(name string, change func(*Config), wrap func(*Processor)) *copyOf {
	w.t.Helper()
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	n := &network{}
	p, err := New(cfg, Deps{
		Kafka:    append(w.broker.Opts(), kgo.Dialer(n.dial)),
		Registry: w.newRegistry(),
		Epochs:   epochs,
		Calls:    w.calls,
		Log:      w.log().With("copy", nextCopy()),
		Metrics:  prometheus.NewRegistry(),
	}, name)
	if err != nil {
		w.t.Fatal(err)
	}
	if wrap != nil {
		wrap(p)
	}
	ctx, end := context.WithCancel(context.Background())
	c := &copyOf{Processor: p, w: w, network: n, end: end, done: make(chan error, 1)}
	go func() { c.done <- p.Run(ctx) }()
	w.t.Cleanup(func() { c.stop() })
	return c
}

var copies int

func nextCopy() int { copies++; return copies }

func (c *copyOf) ready() *copyOf {
	c.w.t.Helper()
	c.w.eventually("ready", c.Ready)
	return c
}

// stop ends a copy in good order and returns Run's error.
func (c *copyOf) stop() error {
	c.once.Do(func() {
		c.end()
		c.err = <-c.done
	})
	return c.err
}

// kill is what kill -9 looks like to the broker: every connection is gone and nothing is ever sent again.
func (c *copyOf) kill() {
	c.network.cut()
	c.stop()
}

// network is a dialer that can be cut.
type network struct {
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func (n *network) dial(ctx context.Context, network, host string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		_ = conn.Close()
		return nil, errors.New("the network is cut")
	}
	n.conns = append(n.conns, conn)
	return conn, nil
}

func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = true
	for _, c := range n.conns {
		_ = c.Close()
	}
}

func (n *network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = false
}

// eventually calls f until it returns nil.
func (w *world) eventually(what string, f func() error) {
	w.t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	w.t.Fatalf("%s: %v", what, err)
}

// read returns every committed record of topics that lies below their high watermarks now.
func (w *world) read(topics ...string) []*kgo.Record {
	w.t.Helper()
	cl := w.newClient(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(100*time.Millisecond))
	defer cl.Close()
	ends, err := w.admin.ListEndOffsets(w.t.Context(), topics...)
	if err != nil {
		w.t.Fatal(err)
	}
	open := map[place]int64{}
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			open[place{o.Topic, o.Partition}] = o.Offset
			if from[o.Topic] == nil {
				from[o.Topic] = map[int32]kgo.Offset{}
			}
			from[o.Topic][o.Partition] = kgo.NewOffset().At(0)
		}
	})
	cl.AddConsumePartitions(from)
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	var all []*kgo.Record
	for len(open) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			w.t.Fatalf("read %v: %v (open %v)", topics, err, open)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !rec.Attrs.IsControl() {
				all = append(all, rec)
			}
			if at := (place{rec.Topic, rec.Partition}); rec.Offset+1 >= open[at] {
				delete(open, at)
			}
		})
	}
	return all
}

// outcome is either kind of outcome of any kind of item.
type outcome struct {
	rec       *kgo.Record
	processed bool
	schemas.Outcome
	ownership   *schemas.OwnershipProcessed
	event       *schemas.EventProcessed
	referral    *schemas.ReferralProcessed
	sale        *schemas.SaleProcessed
	transaction *schemas.TransactionProcessed
	unprocessed *schemas.Unprocessed
}

// outcomes reads all outcomes of a kind that are committed.
func (w *world) outcomes(kind string) []outcome {
	w.t.Helper()
	var all []outcome
	for _, rec := range w.read(schemas.ProcessedTopic(kind), schemas.UnprocessedTopic(kind)) {
		o := outcome{rec: rec, processed: rec.Topic == schemas.ProcessedTopic(kind)}
		switch {
		case !o.processed:
			o.unprocessed = decode[schemas.Unprocessed](w, schemas.UnprocessedSchema, rec.Value)
			o.Outcome = o.unprocessed.Outcome
		case kind == schemas.KindOwnership:
			o.ownership = decode[schemas.OwnershipProcessed](w, schemas.OwnershipProcessedSchema, rec.Value)
			o.Outcome = o.ownership.Outcome
		case kind == schemas.KindCustomerEvents:
			o.event = decode[schemas.EventProcessed](w, schemas.EventProcessedSchema, rec.Value)
			o.Outcome = o.event.Outcome
		case kind == schemas.KindSales:
			o.sale = decode[schemas.SaleProcessed](w, schemas.SaleProcessedSchema, rec.Value)
			o.Outcome = o.sale.Outcome
		case kind == schemas.KindTransactions:
			o.transaction = decode[schemas.TransactionProcessed](w, schemas.TransactionProcessedSchema, rec.Value)
			o.Outcome = o.transaction.Outcome
		default:
			o.referral = decode[schemas.ReferralProcessed](w, schemas.ReferralProcessedSchema, rec.Value)
			o.Outcome = o.referral.Outcome
		}
		all = append(all, o)
	}
	return all
}

// awaitOutcomes waits until there are n outcomes of a kind.
func (w *world) awaitOutcomes(kind string, n int) []outcome {
	w.t.Helper()
	var all []outcome
	w.eventually(fmt.Sprintf("%d outcomes of %s", n, kind), func() error {
		if all = w.outcomes(kind); len(all) < n {
			return fmt.Errorf("have %d", len(all))
		}
		return nil
	})
	if len(all) != n {
		w.t.Fatalf("%d outcomes of %s, want %d", len(all), kind, n)
	}
	return all
}

func decode[T any](w *world, schema *schemas.Schema, value []byte) *T {
	w.t.Helper()
	decoder := schemas.NewDecoder[T](w.schemas, schema)
	for {
		v := new(T)
		err := decoder.Decode(value, v)
		switch {
		case err == nil:
			return v
		case !errors.Is(err, schemas.ErrSchemaPending):
			w.t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// throwOut has a group forget a member that knows nothing of it.
func (w *world) throwOut(side *kgo.Client, group, id string) {
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group, leave.MemberID = group, id
	leave.Members = append(leave.Members, kmsg.LeaveGroupRequestMember{MemberID: id})
	resp, err := leave.RequestWith(w.t.Context(), side)
	if err != nil || resp.ErrorCode != 0 || len(resp.Members) != 1 || resp.Members[0].ErrorCode != 0 {
		w.t.Errorf("leave: %v, %+v", err, resp)
	}
}

// lag is what the group has not committed yet, in offsets.
func (w *world) lag(group string) (int64, error) {
	lags, err := w.admin.Lag(w.t.Context(), group)
	if err != nil {
		return 0, err
	}
	l := lags[group]
	return l.Lag.Total(), l.Error()
}

// counted is the value of a counter.
func counted(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return -1
	}
	return m.GetCounter().GetValue()
}
