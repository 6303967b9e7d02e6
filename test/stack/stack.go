// Package stack gives tests the real parts that the product talks to: Kafka, a schema registry and ClickHouse.
//
// Kafka is by default a kfake broker in the test's own process, a fresh one for each call, that speaks the
// protocol over TCP. With TEST_KAFKA=apache it is Apache Kafka, with TEST_KAFKA=containers a container, as
// ClickHouse is then. ClickHouse is one server for each test process, and a database for each test. With
// TEST_CLICKHOUSE=sharded it is a cluster of two servers with a shard each.
//
// Servers at given addresses take the place of those: KAFKA_BROKERS, SCHEMA_REGISTRY_URL and CLICKHOUSE_ADDR, each
// for itself (see given.go).
//
// Files: stack.go what a test asks for; apache.go and containers.go other brokers; sharded.go the cluster; given.go
// servers that are there already.
//
// Every test package that uses it has
//
//	func TestMain(m *testing.M) { stack.Main(m) }
//
// which starts nothing by itself, and ends whatever the tests started. When a test process dies instead, its
// ClickHouse ends with the pipe that holds it and its Java processes by the kernel's hand.
package stack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// Main runs the tests of a package and ends what they started.
func Main(m *testing.M) {
	embedded.RunChild()
	code := m.Run()
	shared.stop()
	os.Exit(code)
}

// shared is what lives as long as the test process.
var shared parts

type parts struct {
	mu        sync.Mutex
	dir       string // temporary, made with the first part
	ch        *CH
	chErr     error // why ClickHouse did not start: every further test says so at once
	sharded   *CH
	apache    *Apache
	container *Broker // in a container
	given     given
	ends      []func() // in the order of starting
}

// stop ends the shared parts, the youngest first.
func (p *parts) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.ends) - 1; i >= 0; i-- {
		p.ends[i]()
	}
	if p.dir != "" {
		_ = os.RemoveAll(p.dir) // a folder that stays behind in the temporary folder harms nobody
	}
}

// tempDir is a folder of the whole process. The caller holds mu.
func (p *parts) tempDir() (string, error) {
	var err error
	if p.dir == "" {
		p.dir, err = os.MkdirTemp("", "counterfoil-test-")
	}
	return p.dir, err
}

// Broker is a Kafka cluster to test against.
type Broker struct {
	Addrs []string
	// Fake is the broker itself when it is kfake: to inject faults with ControlKey. nil on a real one.
	Fake *kfake.Cluster
}

// Opts are the options with which a client reaches the broker.
func (b *Broker) Opts() []kgo.Opt { return []kgo.Opt{kgo.SeedBrokers(b.Addrs...)} }

// Kafka returns a broker: a fresh, empty kfake for each call; otherwise one that all tests of the process share, with
// whatever topics earlier tests left there.
func Kafka(t testing.TB) *Broker {
	t.Helper()
	switch {
	case GivenKafka():
		return givenKafka(t)
	case OnApache():
		return sharedApache(t).Broker()
	case InContainers():
		return kafkaContainer(t)
	default:
		return Fake(t)
	}
}

// EmptyKafka returns a broker without topics and groups of the product, for a test that runs the product itself: a
// fresh kfake or Apache Kafka, or the shared one, which is emptied at the test's end.
func EmptyKafka(t testing.TB) *Broker {
	t.Helper()
	if OnApache() && !GivenKafka() {
		return ApacheKafka(t).Broker()
	}
	b := Kafka(t)
	if b.Fake == nil {
		t.Cleanup(func() { b.empty(t) })
	}
	return b
}

// CreateTopic creates a topic, with configs as alternating keys and values. Only on a given broker it is deleted at the test's end, or, where
// it is one of the product's, at the end of all tests.
func (b *Broker) CreateTopic(t testing.TB, topic string, partitions int32, configs ...string) {
	t.Helper()
	client, err := kgo.NewClient(b.Opts()...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var settings map[string]*string
	for i := 0; i+1 < len(configs); i += 2 {
		if settings == nil {
			settings = make(map[string]*string)
		}
		settings[configs[i]] = &configs[i+1]
	}
	if _, err := kadm.NewClient(client).CreateTopic(t.Context(), partitions, 1, settings, topic); err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
	if _, ours := schemas.TopicNamed(topic); GivenKafka() && b.Fake == nil && !ours {
		t.Cleanup(func() {
			if err := b.admin(func(adm *kadm.Client) error {
				_, err := adm.DeleteTopic(context.Background(), topic)
				return err
			}); err != nil {
				t.Errorf("delete topic %s: %v", topic, err)
			}
		})
	}
}

// OnApache reports whether tests are to run against Apache Kafka that they start.
func OnApache() bool { return os.Getenv("TEST_KAFKA") == "apache" }

// Fake returns a fresh kfake broker whatever the environment says.
func Fake(t testing.TB) *Broker {
	t.Helper()
	cluster, err := embedded.NewKafka()
	if err != nil {
		t.Fatalf("start kfake: %v", err)
	}
	t.Cleanup(cluster.Close)
	return &Broker{Addrs: cluster.ListenAddrs(), Fake: cluster}
}

// Registry returns the URL of an empty schema registry: one that is started for this test, or the given one.
func Registry(t testing.TB) string {
	t.Helper()
	if url := os.Getenv(envRegistry); url != "" {
		return givenRegistry(t, url)
	}
	return FakeRegistry(t)
}

// FakeRegistry starts an empty schema registry for this test, whatever the environment says, and returns its URL.
func FakeRegistry(t testing.TB) string {
	t.Helper()
	reg := srfake.NewRegistry()
	srv := httptest.NewServer(reg.Handler())
	t.Cleanup(srv.Close)
	return srv.URL
}

// CH is a ClickHouse server, or a cluster of them seen from its first node.
type CH struct {
	Addr     string // native protocol, host:port
	HTTPAddr string // host:port
	User     string // the administrator
	Password string
	TLS      bool
	CAFile   string
	Cluster  string // name in remote_servers; empty: a single server
	NodePort string // client port of a cluster's nodes, where it differs from the one in remote_servers
	Nodes    []*CH  // of a cluster that the tests have started: its servers, a shard each

	cfg   embedded.Config
	stack *embedded.Stack
	gate  *gate // of a server of Nodes
}

// ClickHouse returns the test process's server, or cluster, which the first call starts.
func ClickHouse(t testing.TB) *CH {
	t.Helper()
	switch {
	case GivenClickHouse():
	case InContainers():
		needDocker(t)
	case sharded():
		return Sharded(t)
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.ch == nil && shared.chErr == nil {
		shared.ch, shared.chErr = startClickHouse()
	}
	if shared.chErr != nil {
		t.Fatalf("start ClickHouse: %v", shared.chErr)
	}
	return shared.ch
}

// OwnClickHouse reports whether tests are to run on a single embedded server, so that `counterfoil up` may have its own.
func OwnClickHouse() bool { return !GivenClickHouse() && !InContainers() && !sharded() }

// sharded reports whether ClickHouse is to be a cluster.
func sharded() bool { return os.Getenv("TEST_CLICKHOUSE") == "sharded" }

// startClickHouse is called with shared.mu held.
func startClickHouse() (*CH, error) {
	if addr := os.Getenv(envClickHouse); addr != "" {
		return givenClickHouse(addr)
	}
	if InContainers() {
		return clickhouseContainer()
	}
	dir, err := shared.tempDir()
	if err != nil {
		return nil, err
	}
	ch, err := startEmbedded(embedded.Config{Dir: dir, ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.1:0"})
	if err == nil {
		shared.ends = append(shared.ends, ch.stack.Close)
	}
	return ch, err
}

func startEmbedded(cfg embedded.Config) (*CH, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := embedded.Start(ctx, cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return nil, err
	}
	return &CH{Addr: s.ClickHouseAddr(), HTTPAddr: s.ClickHouseHTTPAddr(), User: "default", cfg: cfg, stack: s}, nil
}

// Settings are the product's settings with which it reaches the server.
func (c *CH) Settings() []string {
	addrs := c.Addr
	for _, n := range c.Nodes {
		if n.Addr != c.Addr {
			addrs += "," + n.Addr
		}
	}
	all := []string{envClickHouse + "=" + addrs, envUser + "=" + c.User}
	for name, value := range map[string]string{envPassword: c.Password, envCAFile: c.CAFile, envCluster: c.Cluster, envNodePort: c.NodePort} {
		if value != "" {
			all = append(all, name+"="+value)
		}
	}
	if c.TLS {
		all = append(all, envTLS+"=true")
	}
	return all
}

// Options are those of a native connection as the administrator, with a default database.
func (c *CH) Options(t testing.TB, database string) *clickhouse.Options {
	t.Helper()
	o := &clickhouse.Options{Addr: strings.Split(c.Addr, ","), Auth: clickhouse.Auth{Database: database, Username: c.User, Password: c.Password}}
	if c.TLS {
		o.TLS = c.tls(t)
	}
	return o
}

// Database makes an empty database for this test, drops it at the test's end on every node, and returns its name.
func (c *CH) Database(t testing.TB) string {
	t.Helper()
	name := "test_" + schemas.NewBatchKey() // random
	// The engine aborts when a connection of a killed process, of the test before, is reset, and is started again.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, err := c.QueryAs(t, c.User, c.Password, "CREATE DATABASE "+name, nil)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("create a database: %v", err)
		}
	}
	addrs := c.addrs(t)
	t.Cleanup(func() {
		for _, addr := range addrs {
			if err := c.drop(t, addr, name); err != nil { // only space is lost then
				t.Logf("drop %s on %s: %v", name, addr, err)
			}
		}
	})
	return name
}

// addrs are the servers that have databases of their own.
func (c *CH) addrs(t testing.TB) []string {
	t.Helper()
	if c.Cluster == "" {
		return []string{c.Addr}
	}
	port := "port"
	if c.NodePort != "" {
		port = c.NodePort
	}
	return strings.Split(c.Exec(t, "SELECT concat(host_name, ':', toString("+port+")) FROM system.clusters WHERE cluster = '"+c.Cluster+"'"), "\n")
}

func (c *CH) drop(t testing.TB, addr, database string) error {
	o := c.Options(t, "")
	o.Addr = []string{addr}
	conn, err := clickhouse.Open(o)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return conn.Exec(ctx, "DROP DATABASE IF EXISTS "+database+" SYNC")
}

// Exec runs a statement as the administrator and returns what it answers, tab separated, without the last line
// break. It ends the test when the statement fails.
func (c *CH) Exec(t testing.TB, sql string) string {
	t.Helper()
	out, err := c.QueryAs(t, c.User, c.Password, sql, nil)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// QueryAs runs a statement as a user, with parameters of ClickHouse's HTTP interface, and returns what it answers,
// tab separated, without the last line break. An answer that is an error is a [*QueryError].
func (c *CH) QueryAs(t testing.TB, user, password, sql string, params url.Values) (string, error) {
	t.Helper()
	all := url.Values{"wait_end_of_query": {"1"}}
	maps.Copy(all, params)
	scheme, transport := "http", &http.Transport{DisableKeepAlives: true} // an idle connection would hold up the server's end
	if c.TLS {
		scheme, transport.TLSClientConfig = "https", c.tls(t)
	}
	req, err := http.NewRequest(http.MethodPost, scheme+"://"+c.HTTPAddr+"/?"+all.Encode(), strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	req.SetBasicAuth(user, password)
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	text := strings.TrimSuffix(string(body), "\n")
	if res.StatusCode != http.StatusOK {
		return "", &QueryError{text}
	}
	return text, nil
}

// QueryError is what ClickHouse answered to a query that failed.
type QueryError struct{ Text string }

func (e *QueryError) Error() string { return e.Text }

// tls trusts CAFile, where there is one.
func (c *CH) tls(t testing.TB) *tls.Config {
	t.Helper()
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			t.Fatalf("%s holds no certificate", c.CAFile)
		}
	}
	return cfg
}

// AtEnd has f called when the tests of the process have ended, after the parts that are started later are gone.
func AtEnd(f func()) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.ends = append(shared.ends, f)
}
