package harness

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/counterfoil/counterfoil/test/stack"
)

// Copies sets how many copies of each role run; two of each by default.
func Copies(ingest, process, sink int) Option {
	return func(o *options) { o.ingest, o.process, o.sink = ingest, process, sink }
}

// Supervised has copies that end by themselves started again, as a supervisor does. Without it the test fails then.
func Supervised() Option {
	return func(o *options) { o.supervised = true }
}

// Sharded has the cluster write to and read from a ClickHouse cluster of two shards, whatever the environment says.
func Sharded() Option {
	return func(o *options) { o.sharded = true }
}

// Program has all copies, and the first migrate, run another binary than [Binary].
func Program(path string) Option {
	return func(o *options) { o.program = path }
}

// Cluster is copies of each role, each a process of its own, against one Kafka, registry and ClickHouse.
type Cluster struct {
	Parts
	Broken  Broken // servers of a breakable cluster
	Ingest  []*Copy
	Process []*Copy
	Sink    []*Copy
}

// Copy is one copy of a role. Its INSTANCE is its name, so that a restart within the session timeout keeps its partitions.
type Copy struct {
	*Process
	URL string // HTTP API of an ingest copy; of the others /healthz, /readyz and /metrics
	// ClickHouseNet is its way to ClickHouse; nil unless the cluster is breakable and ClickHouse its own.
	ClickHouseNet *Proxy
}

// ClientID is what the copy's Kafka clients call themselves.
func (c *Copy) ClientID() string { return "counterfoil-" + c.Name() }

// StartCluster prepares an empty Kafka, registry and ClickHouse database with `counterfoil migrate`, 4 partitions, and starts the copies.
// It returns when all are ready. Session, lease and transaction timeouts are 2 s.
func StartCluster(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	NeedClickHouse(t)
	NeedKafka(t)
	o := options{ingest: 2, process: 2, sink: 2}
	for _, opt := range opts {
		opt(&o)
	}
	c := &Cluster{Parts: Parts{t: t}}
	var broker *stack.Broker
	var registry string
	switch {
	case o.breakable:
		broker, registry, c.CH = c.servers(&o)
	case o.sharded:
		broker, registry, c.CH = stack.EmptyKafka(t), stack.Registry(t), stack.Sharded(t)
	default:
		broker, registry, c.CH = stack.EmptyKafka(t), stack.Registry(t), stack.ClickHouse(t)
	}
	c.Kafka, c.Registry, c.Database = broker.Opts(), newRegistry(t, registry), c.CH.Database(t)
	c.settings = slices.Concat([]string{
		"KAFKA_BROKERS=" + strings.Join(broker.Addrs, ","),
		"SCHEMA_REGISTRY_URL=" + registry,
		"CLICKHOUSE_DATABASE=" + c.Database,
		"TOPIC_PARTITIONS=4",
		"TRANSACTION_TIMEOUT=2s",
		"SESSION_TIMEOUT=2s",
		"SINK_SESSION_TIMEOUT=2s",
		"SINK_LEASE=2s",
		"SINK_FLUSH_INTERVAL=300ms",
		"TOKEN_SECRETS=a secret of the tests, not of anybody else",
	}, c.CH.Settings(), o.env)
	program := o.program
	if program == "" {
		program = Binary(t)
	}
	if _, err := TryRun(c.t.Context(), program, c.settings, "", "migrate"); err != nil {
		t.Fatal(err)
	}
	for i := range o.ingest {
		c.Ingest = append(c.Ingest, c.copy(&o, "ingest", i, "HTTP_ADDR"))
	}
	for i := range o.process {
		c.Process = append(c.Process, c.copy(&o, "process", i, "OPS_ADDR"))
	}
	for i := range o.sink {
		c.Sink = append(c.Sink, c.copy(&o, "sink", i, "OPS_ADDR"))
	}
	for _, copy := range c.All() {
		copy.Start()
	}
	for _, copy := range c.All() {
		copy.WaitReady()
	}
	return c
}

func (c *Cluster) copy(o *options, role string, i int, addrSetting string) *Copy {
	c.t.Helper()
	name, addr := fmt.Sprintf("%s-%d", role, i+1), FreeAddr(c.t)
	url := "http://" + addr
	env := append([]string{"INSTANCE=" + name, addrSetting + "=" + addr}, c.settings...)
	var wire *Proxy
	if c.Broken.ClickHouse != nil {
		wire = NewProxy(c.t, c.CH.Addr, nil)
		env = append(env, "CLICKHOUSE_ADDR="+wire.Addr)
	}
	p := newProcess(c.t, name, url, env, []string{role})
	p.restarts, p.program = o.supervised, o.program
	return &Copy{Process: p, URL: url, ClickHouseNet: wire}
}

// Spare makes one more copy of process or sink, which is not started, and is none of [Cluster.All].
func (c *Cluster) Spare(role string) *Copy {
	c.t.Helper()
	return c.copy(&options{supervised: true}, role, 2, "OPS_ADDR")
}

// AddProcess starts one more copy of the role process and waits until it is ready.
func (c *Cluster) AddProcess() *Copy {
	c.t.Helper()
	copy := c.copy(&options{}, "process", len(c.Process), "OPS_ADDR")
	c.Process = append(c.Process, copy)
	copy.Start()
	copy.WaitReady()
	return copy
}

// All are the copies of all roles.
func (c *Cluster) All() []*Copy {
	var all []*Copy
	for _, copies := range [][]*Copy{c.Ingest, c.Process, c.Sink} {
		all = append(all, copies...)
	}
	return all
}

// Restart starts the copy again after Kill or Interrupt, and waits until it is ready.
func (c *Copy) Restart() {
	c.t.Helper()
	c.Start()
	c.WaitReady()
}
