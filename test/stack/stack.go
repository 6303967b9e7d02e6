// Package stack gives tests the real parts that the product talks to: Kafka, a schema registry and ClickHouse.
//
// Kafka is by default a kfake broker in the test's own process, a fresh one for each call, that speaks the
// protocol over TCP. With TEST_KAFKA=apache it is Apache Kafka, with TEST_KAFKA=containers a container, as
// ClickHouse is then, and with KAFKA_BROKERS the cluster at these addresses. ClickHouse is one server for each test
// process, and a database for each test.
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
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

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
	apache    *Apache
	container *Broker  // in a container
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

// Kafka returns a broker: a fresh, empty kfake for each call; with TEST_KAFKA=apache or =containers one broker that
// all tests of the process share, with whatever topics earlier tests left there; with KAFKA_BROKERS, comma
// separated, those.
func Kafka(t testing.TB) *Broker {
	t.Helper()
	if addrs := os.Getenv("KAFKA_BROKERS"); addrs != "" {
		return &Broker{Addrs: strings.Split(addrs, ",")}
	}
	switch {
	case OnApache():
		return sharedApache(t).Broker()
	case InContainers():
		return kafkaContainer(t)
	default:
		return Fake(t)
	}
}

// CreateTopic creates a topic, with configs as alternating keys and values, and deletes nothing at the test's end.
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
}

// OnApache reports whether tests are to run against Apache Kafka.
func OnApache() bool { return os.Getenv("TEST_KAFKA") == "apache" }

// Fake returns a fresh kfake broker whatever the environment says.
func Fake(t testing.TB) *Broker {
	t.Helper()
	cluster, err := kfake.NewCluster(embedded.KafkaOptions()...)
	if err != nil {
		t.Fatalf("start kfake: %v", err)
	}
	t.Cleanup(cluster.Close)
	return &Broker{Addrs: cluster.ListenAddrs(), Fake: cluster}
}

// Registry starts an empty schema registry for this test and returns its URL.
func Registry(t testing.TB) string {
	t.Helper()
	reg := srfake.NewRegistry()
	srv := httptest.NewServer(reg.Handler())
	t.Cleanup(srv.Close)
	return srv.URL
}

// CH is a ClickHouse server.
type CH struct {
	Addr     string // native protocol, host:port
	HTTPAddr string // host:port
	stack    *embedded.Stack
}

// ClickHouse returns the test process's server, which the first call starts. With CLICKHOUSE_ADDR, and
// CLICKHOUSE_HTTP_ADDR, it is the server there, as user `default` without a password.
func ClickHouse(t testing.TB) *CH {
	t.Helper()
	if InContainers() {
		needDocker(t)
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

// startClickHouse is called with shared.mu held.
func startClickHouse() (*CH, error) {
	if addr := os.Getenv("CLICKHOUSE_ADDR"); addr != "" {
		http := os.Getenv("CLICKHOUSE_HTTP_ADDR")
		if http == "" {
			return nil, fmt.Errorf("CLICKHOUSE_ADDR is set and CLICKHOUSE_HTTP_ADDR is not: the tests need both")
		}
		return &CH{Addr: addr, HTTPAddr: http}, nil
	}
	if InContainers() {
		return clickhouseContainer()
	}
	dir, err := shared.tempDir()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := embedded.Start(ctx, embedded.Config{Dir: dir, ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.1:0"},
		slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return nil, err
	}
	shared.ends = append(shared.ends, s.Close)
	return &CH{Addr: s.ClickHouseAddr(), HTTPAddr: s.ClickHouseHTTPAddr(), stack: s}, nil
}

// Database makes an empty database for this test, drops it at the test's end, and returns its name.
func (c *CH) Database(t testing.TB) string {
	t.Helper()
	name := "test_" + schemas.NewBatchKey() // random
	c.Exec(t, "CREATE DATABASE "+name)
	t.Cleanup(func() {
		// The engine aborts when a connection of a killed process is reset, and is started again: only space is lost then.
		if _, err := c.QueryAs("default", "", "DROP DATABASE IF EXISTS "+name+" SYNC"); err != nil {
			t.Logf("drop %s: %v", name, err)
		}
	})
	return name
}

// Exec runs a statement as the administrator and returns what it answers, tab separated, without the last line
// break. It ends the test when the statement fails.
func (c *CH) Exec(t testing.TB, sql string) string {
	t.Helper()
	out, err := c.QueryAs("default", "", sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// QueryAs runs a statement as a user and returns what it answers, tab separated, without the last line break.
func (c *CH) QueryAs(user, password, sql string) (string, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+c.HTTPAddr+"/?"+url.Values{"wait_end_of_query": {"1"}}.Encode(), strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	req.SetBasicAuth(user, password)
	req.Close = true // an idle connection would hold up the server's end
	res, err := http.DefaultClient.Do(req)
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
		return "", fmt.Errorf("%s", text)
	}
	return text, nil
}

// AtEnd has f called when the tests of the process have ended, after the parts that are started later are gone.
func AtEnd(f func()) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.ends = append(shared.ends, f)
}
