package harness

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
)

// Option changes how [StartUp] or [StartCluster] runs.
type Option func(*options)

type options struct {
	env        []string
	args       []string
	ingest     int
	process    int
	sink       int
	supervised bool
	sharded    bool
	program    string
	breakable  bool
}

// Env sets settings, each as NAME=value.
func Env(settings ...string) Option {
	return func(o *options) { o.env = append(o.env, settings...) }
}

// Args adds arguments to `counterfoil up`.
func Args(args ...string) Option {
	return func(o *options) { o.args = append(o.args, args...) }
}

// Up is a running `counterfoil up`.
type Up struct {
	*Process
	Parts
	URL  string // of the HTTP service
	Dir  string // data folder
	Key  Key    // of the demo tenant; zero with --no-demo
	seen int    // bytes of the log before the present start
}

// StartUp starts `counterfoil up` on an empty data folder and free ports, and returns when it is ready. Of servers that the tests are told to
// use, see test/stack, it has none of its own.
func StartUp(t testing.TB, opts ...Option) *Up {
	t.Helper()
	NeedClickHouse(t)
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	http, kafka, registry := FreeAddr(t), FreeAddr(t), FreeAddr(t)
	clickhouse, clickhouseHTTP := FreeAddr(t), FreeAddr(t)
	u := &Up{URL: "http://" + http, Dir: t.TempDir()}
	u.Parts = Parts{
		t:        t,
		Kafka:    []kgo.Opt{kgo.SeedBrokers(kafka)},
		CH:       &stack.CH{Addr: clickhouse, HTTPAddr: clickhouseHTTP, User: "default"},
		Database: "counterfoil",
	}
	brokers, url := kafka, "http://"+registry
	var given []string // what up is to use in place of its own
	if stack.GivenKafka() || stack.OnApache() || stack.InContainers() {
		NeedKafka(t)
		broker := stack.EmptyKafka(t)
		u.Kafka, brokers = broker.Opts(), strings.Join(broker.Addrs, ",")
		given = append(given, "KAFKA_BROKERS="+brokers)
	}
	if stack.GivenRegistry() {
		url = stack.Registry(t)
		given = append(given, "SCHEMA_REGISTRY_URL="+url)
	}
	if !stack.OwnClickHouse() {
		u.CH = stack.ClickHouse(t)
		u.Database = u.CH.Database(t)
		given = append(given, append(u.CH.Settings(), "CLICKHOUSE_DATABASE="+u.Database)...)
	}
	u.Registry = newRegistry(t, url)
	u.settings = append([]string{"KAFKA_BROKERS=" + brokers, "SCHEMA_REGISTRY_URL=" + url, "CLICKHOUSE_DATABASE=" + u.Database}, u.CH.Settings()...)
	args := append([]string{"up", "--data", u.Dir, "--http-addr", http, "--kafka-addr", kafka, "--registry-addr", registry,
		"--clickhouse-addr", clickhouse, "--clickhouse-http-addr", clickhouseHTTP}, o.args...)
	t.Cleanup(u.waitPartsGone) // after the end of up itself, before the folder is removed
	u.Process = newProcess(t, "up", u.URL, append(given, o.env...), args)
	u.Restart()
	return u
}

// Restart starts it again on the same data folder and the same ports, after Interrupt or Kill, and returns when it is ready.
func (u *Up) Restart() {
	u.t().Helper()
	u.StartAgain()
	u.WaitReady()
}

// StartAgain starts it like Restart, and does not wait.
func (u *Up) StartAgain() {
	u.t().Helper()
	u.seen = len(u.Log())
	u.Start()
}

// WaitReady waits until it is ready and has said so.
func (u *Up) WaitReady() {
	u.t().Helper()
	u.Process.WaitReady()
	if said := u.waitSaid(); said != "" {
		if m := demoKey.FindStringSubmatch(said); m != nil {
			u.Key = Key{Tenant: "demo", ID: m[1], Secret: m[2]}
		}
	}
}

var demoKey = regexp.MustCompile(`(?m)^Key of the tenant demo: ([0-9A-Za-z]+)\.([0-9A-Za-z]+)$`)

// waitSaid returns what it printed since its start, once it has announced itself.
func (u *Up) waitSaid() string {
	for range 250 {
		if said := u.Log()[u.seen:]; strings.Contains(said, "Ctrl-C drains") {
			return said
		}
		time.Sleep(20 * time.Millisecond)
	}
	u.t().Errorf("counterfoil up is ready and has not said where it listens")
	return ""
}

func (u *Up) t() testing.TB { return u.Process.t }

// KillPart ends an embedded part (embedded.ClickHouse, ...) with kill -9; up is to start it again.
func (u *Up) KillPart(part string) {
	u.t().Helper()
	pid := embedded.LockHolder(filepath.Join(u.Dir, part))
	if pid == 0 {
		u.t().Fatalf("kill %s: no process of that part is known", part)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		u.t().Fatalf("kill %s (process %d): %v", part, pid, err)
	}
}

// waitPartsGone waits until the embedded parts have ended. They close their files when up is gone, however that ended.
func (u *Up) waitPartsGone() {
	u.t().Helper()
	for _, part := range []string{embedded.Kafka, embedded.Registry, embedded.ClickHouse} {
		pid := embedded.LockHolder(filepath.Join(u.Dir, part))
		Eventually(u.t(), time.Minute, func() string {
			if pid == 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) {
				return ""
			}
			return fmt.Sprintf("process %d, the embedded %s, outlives counterfoil up", pid, part)
		})
	}
}

func newRegistry(t testing.TB, url string) *schemas.Registry {
	t.Helper()
	r, err := schemas.NewRegistry(schemas.RegistryConfig{URL: []string{url}, ConfirmAfter: time.Second, RememberFor: time.Minute},
		slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
