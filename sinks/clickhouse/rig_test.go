package clickhouse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		runChild(text)
		return
	}
	stack.Main(m)
}

// rig is a Kafka with all topics, a registry with all schemas and a ClickHouse with all tables.
type rig struct {
	begin    kadm.Offsets // where the topics ended before the test
	t        testing.TB
	broker   *stack.Broker
	registry *schemas.Registry
	conn     *Conn
	cfg      Config
	client   *kgo.Client // plain producer
	admin    *kadm.Client
	encoders map[string]*schemas.Encoder
	child    childConfig
}

// partitions of each topic that leaves the number open.
const partitions = 4

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigOn(t, stack.ClickHouse(t))
}

// configOf is how to reach a server, or cluster, and a database of the test's own there.
func configOf(t testing.TB, server *stack.CH) Config {
	t.Helper()
	port, _ := strconv.Atoi(server.NodePort) // empty: none
	return Config{Hosts: strings.Split(server.Addr, ","), Database: server.Database(t), User: server.User, Password: server.Password,
		TLS: server.TLS, CAFile: server.CAFile, Cluster: server.Cluster, NodePort: port}
}

func newRigOn(t testing.TB, server *stack.CH) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{t: t, broker: stack.Kafka(t), encoders: map[string]*schemas.Encoder{}}
	r.cfg = configOf(t, server)
	var err error
	r.conn, err = Open(ctx, r.cfg)
	must(t, err)
	t.Cleanup(func() { r.conn.Close() })
	_, err = r.conn.Migrate(ctx, false)
	must(t, err)
	url := stack.Registry(t)
	r.registry = testRegistry(t, url)
	_, err = r.registry.Register(ctx, false)
	must(t, err)

	r.client, err = kgo.NewClient(append(r.broker.Opts(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	must(t, err)
	t.Cleanup(r.client.Close)
	r.admin = kadm.NewClient(r.client)
	have, err := r.admin.ListTopics(ctx)
	must(t, err)
	start := kadm.Offsets{}
	for _, topic := range schemas.Topics() {
		if tablesOf(topic) == nil {
			continue
		}
		if !have.Has(topic.Name) {
			n := int32(partitions)
			if topic.Partitions != 0 {
				n = int32(topic.Partitions)
			}
			r.broker.CreateTopic(t, topic.Name, n)
		}
	}
	var ends kadm.ListedOffsets
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // a real broker knows new topics a little later
		if ends, err = r.admin.ListEndOffsets(ctx, Topics()...); err == nil {
			err = ends.Error()
		}
		if err == nil || time.Now().After(end) {
			break
		}
	}
	must(t, err)
	ends.Each(func(o kadm.ListedOffset) {
		must(t, o.Err)
		start.Add(kadm.Offset{Topic: o.Topic, Partition: o.Partition, At: o.Offset, LeaderEpoch: -1, Metadata: metaReleased})
	})
	r.begin = start
	r.commit(start)
	r.child = childConfig{Kafka: r.broker.Addrs, Registry: url, ClickHouse: r.cfg}
	return r
}

// commit sets the group's offsets, when the members of earlier tests on a shared broker are gone.
func (r *rig) commit(at kadm.Offsets) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		resp, err := r.admin.CommitOffsets(r.t.Context(), schemas.GroupSink, at)
		if err == nil {
			err = resp.Error()
		}
		if err == nil || time.Now().After(end) {
			must(r.t, err)
			return
		}
	}
}

func testRegistry(t testing.TB, url string) *schemas.Registry {
	t.Helper()
	r, err := schemas.NewRegistry(schemas.RegistryConfig{URL: []string{url}, ConfirmAfter: 200 * time.Millisecond, RememberFor: time.Minute}, testLog(t))
	must(t, err)
	return r
}

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("test", t.Name())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sinkConfig has short times, so that tests are short.
func sinkConfig() SinkConfig {
	return SinkConfig{FlushRows: 5000, FlushBytes: 64 << 20, FlushInterval: 50 * time.Millisecond, Lease: 2 * time.Second, Session: 3 * time.Second}
}

// running is a sink at work in this process.
type running struct {
	*Sink
	reg  *prometheus.Registry
	done chan struct{} // closed when Run has returned
	err  error         // what it returned
	stop func() error  // ends it in good order and returns what Run did
}

// start runs a sink; set may change it before.
func (r *rig) start(set func(*Sink)) *running {
	r.t.Helper()
	reg := prometheus.NewRegistry()
	s, err := New(sinkConfig(), Deps{Kafka: r.broker.Opts(), Conn: r.conn, Registry: r.registry, Log: testLog(r.t), Metrics: reg})
	must(r.t, err)
	if set != nil {
		set(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := &running{Sink: s, reg: reg, done: make(chan struct{})}
	go func() {
		defer close(run.done)
		run.err = s.Run(ctx)
	}()
	run.stop = func() error {
		cancel()
		select {
		case <-run.done:
			return run.err
		case <-time.After(30 * time.Second):
			return errors.New("the sink does not end")
		}
	}
	r.t.Cleanup(func() { run.stop() })
	return run
}

// encode makes the value of a topic.
func (r *rig) encode(topic string, v any) []byte {
	r.t.Helper()
	e := r.encoders[topic]
	if e == nil {
		var err error
		e, err = r.registry.Encoder(r.t.Context(), topic)
		must(r.t, err)
		r.encoders[topic] = e
	}
	b, err := e.Append(nil, v)
	must(r.t, err)
	return b
}

func (r *rig) produce(records ...*kgo.Record) {
	r.t.Helper()
	must(r.t, r.client.ProduceSync(r.t.Context(), records...).FirstErr())
}

// inTransaction produces records in a transaction of their own, so that markers follow them.
func (r *rig) inTransaction(commit bool, records ...*kgo.Record) {
	r.t.Helper()
	client, err := kgo.NewClient(append(r.broker.Opts(), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.TransactionalID(fmt.Sprintf("%s-%d", r.t.Name(), time.Now().UnixNano())))...)
	must(r.t, err)
	defer client.Close()
	must(r.t, client.BeginTransaction())
	must(r.t, client.ProduceSync(r.t.Context(), records...).FirstErr())
	must(r.t, client.EndTransaction(r.t.Context(), kgo.TransactionEndTry(commit)))
}

// ownership is the n-th processed ownership change.
func (r *rig) ownership(n int) *kgo.Record {
	batch := "0123456789abcdef0123456789abcdef"
	at := time.UnixMilli(1_700_000_000_000 + int64(n)).UTC()
	day := time.Date(2021, 11, 5, 0, 0, 0, 0, time.UTC)
	v := &schemas.OwnershipProcessed{OwnershipResult: schemas.OwnershipResult{
		Outcome: schemas.Outcome{
			Tenant: "acme", ID: schemas.ItemID("acme", batch, int32(n)), Batch: &batch, Index: int32(n), Attempt: 1,
			SourceTopic: "ownership", SourcePartition: int32(n % partitions), SourceOffset: int64(n), AcceptedAt: at, JudgedAt: at,
		},
		UserKey: fmt.Sprintf("user%d", n), SKUKey: "app-01", UserName: fmt.Sprintf("User%d", n), ProductSKU: "APP-01",
		TimeOfApproval: &day, Quantity: 1, Version: int64(n),
	}, Item: schemas.Ownership{Clear: []string{}}}
	return &kgo.Record{Topic: "ownership.processed", Partition: int32(n % partitions), Value: r.encode("ownership.processed", v)}
}

func (r *rig) ownerships(from, to int) []*kgo.Record {
	var all []*kgo.Record
	for n := from; n < to; n++ {
		all = append(all, r.ownership(n))
	}
	return all
}

// query returns a statement's one value.
func (r *rig) query(sql string, args ...any) string {
	r.t.Helper()
	v, err := r.tryQuery(sql, args...)
	must(r.t, err)
	return v
}

func (r *rig) tryQuery(sql string, args ...any) (string, error) {
	var v string
	sql = strings.ReplaceAll(sql, "{db}", r.cfg.Database)
	err := r.conn.any.QueryRow(context.Background(), "SELECT toString(("+sql+"))", args...).Scan(&v)
	return v, err
}

// wait polls until a statement's value is want.
func (r *rig) wait(want, sql string) {
	r.t.Helper()
	r.waitLong(20*time.Second, want, sql)
}

func (r *rig) waitLong(limit time.Duration, want, sql string) {
	r.t.Helper()
	var got string
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got, err = r.tryQuery(sql); err == nil && got == want {
			return
		}
	}
	r.t.Fatalf("%s: got %q, %v; want %q", sql, got, err, want)
}

// counter is the sum of a metric over its labels.
func (s *running) counter(t testing.TB, name string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	must(t, err)
	sum := 0.0
	for _, f := range families {
		if f.GetName() == "counterfoil_sink_"+name {
			for _, m := range f.Metric {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// A sink in a process of its own, for tests that kill and stop it.

const childEnv = "COUNTERFOIL_TEST_SINK"

type childConfig struct {
	Kafka      []string
	Registry   string
	ClickHouse Config
	Sink       SinkConfig
	StopAt     string // point of the protocol at which the process stops itself, once
}

func runChild(text string) {
	var cfg childConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		panic(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("pid", os.Getpid())
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	fail := func(err error) {
		if err != nil {
			log.Error("child sink", "error", err)
			os.Exit(1)
		}
	}
	registry, err := schemas.NewRegistry(schemas.RegistryConfig{URL: []string{cfg.Registry}, ConfirmAfter: time.Second, RememberFor: time.Minute}, log)
	fail(err)
	conn, err := Open(ctx, cfg.ClickHouse)
	fail(err)
	s, err := New(cfg.Sink, Deps{Kafka: []kgo.Opt{kgo.SeedBrokers(cfg.Kafka...)}, Conn: conn, Registry: registry, Log: log})
	fail(err)
	var stopped atomic.Bool
	s.hook = func(_ context.Context, at, table string) error {
		if at == cfg.StopAt && table == "ownership" && !stopped.Swap(true) {
			syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		}
		return nil
	}
	fail(s.Run(ctx))
}

// proxy forwards connections to addr and ends each in good order, also when the client was killed: the embedded engine aborts when an idle
// connection is reset (a killed process with unread bytes in its socket sends a reset), which no server does.
func proxy(t testing.TB, addr string) string {
	t.Helper()
	return startProxy(t, addr).addr
}

// silencer is a proxy whose connections can fall silent.
type silencer struct {
	addr  string
	mu    sync.Mutex
	muted []*atomic.Bool // of each connection
	deaf  atomic.Bool    // new connections are silent too
}

// silence makes the connections that are open now carry nothing any more; neither end hears of it.
func (p *silencer) silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.muted {
		m.Store(true)
	}
}

// until reads for ever, once its connection is muted.
type until struct {
	io.Reader
	muted *atomic.Bool
	end   <-chan struct{}
}

func (r until) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if r.muted.Load() {
		<-r.end
		return 0, io.EOF
	}
	return n, err
}

func startProxy(t testing.TB, addr string) *silencer {
	t.Helper()
	p := &silencer{}
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	p.addr = l.Addr().String()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer server.Close()
				muted := new(atomic.Bool)
				muted.Store(p.deaf.Load())
				p.mu.Lock()
				p.muted = append(p.muted, muted)
				p.mu.Unlock()
				go func() {
					io.Copy(server, until{client, muted, end})
					server.(*net.TCPConn).CloseWrite()
				}()
				io.Copy(client, until{server, muted, end})
				io.Copy(io.Discard, server) // after a reset of the client: until the server ends
			}()
		}
	}()
	return p
}

// startChild runs a sink in a process of its own.
func (r *rig) startChild(set func(*childConfig)) *exec.Cmd {
	r.t.Helper()
	cfg := r.child
	cfg.Sink = sinkConfig()
	cfg.ClickHouse.Hosts = []string{proxy(r.t, r.cfg.Hosts[0])}
	if set != nil {
		set(&cfg)
	}
	text, err := json.Marshal(cfg)
	must(r.t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	if os.Getenv("TEST_LOG") != "" {
		cmd.Stderr = os.Stderr
	}
	must(r.t, cmd.Start())
	r.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}
