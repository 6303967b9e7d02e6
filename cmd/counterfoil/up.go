package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/adopt"
	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/schemas"
)

func upCommand() *command {
	var parts embedded.Config
	var httpAddr string
	var noDemo, takeOver bool
	return &command{
		name:    "up",
		args:    "[flags]",
		summary: "run everything on this machine: Kafka, schema registry, ClickHouse and all roles",
		help: `Starts an embedded Kafka, schema registry and ClickHouse, prepares them, fills an empty data folder with a demo tenant, and runs ingest,
process and sink. It prints where each part listens, a key, and curl lines that work as printed. Ctrl-C drains and ends it; a second start
on the same data folder goes on where it was.

Where KAFKA_BROKERS, SCHEMA_REGISTRY_URL or CLICKHOUSE_ADDR is set, that server is used in place of the embedded one.

Where Kafka's or ClickHouse's part of the data folder was removed, it says what going on without it means, and ends; with --adopt it goes on
(counterfoil help adopt).

Examples:
  counterfoil up
  counterfoil up --data /tmp/try --http-addr 127.0.0.1:8090 --kafka-addr 127.0.0.1:9192`,
		flags: func(f *flag.FlagSet) {
			parts.Flags(f)
			f.StringVar(&httpAddr, "http-addr", "", "`address` of the HTTP service (default HTTP_ADDR, else 127.0.0.1:8080)")
			f.BoolVar(&takeOver, "adopt", false, "go on where Kafka or ClickHouse lost data, see counterfoil help adopt")
			f.BoolVar(&noDemo, "no-demo", false, "leave an empty data folder empty: no demo tenant, no key")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: up takes flags only", errUsage)
			}
			u := &upRun{app: app, parts: parts, demo: !noDemo, adopt: takeOver}
			return u.run(ctx, httpAddr)
		},
	}
}

// upRun is one run of `counterfoil up`.
type upRun struct {
	app   *app
	parts embedded.Config
	demo  bool
	adopt bool
	cfg   *Config
	log   *slog.Logger

	key      string // of the demo tenant
	password string // of the demo tenant's analyst
}

func (u *upRun) run(ctx context.Context, httpAddr string) error {
	values := env.ToMap(u.app.environ)
	if httpAddr == "" && values["HTTP_ADDR"] == "" {
		httpAddr = "127.0.0.1:8080"
	}
	if httpAddr != "" {
		values["HTTP_ADDR"] = httpAddr
	}
	fallback := func(name, value string) {
		if values[name] == "" {
			values[name] = value
		}
	}
	fallback("TOPIC_PARTITIONS", "4")
	fallback("INSTANCE", "up")
	fallback("LOG_LEVEL", "WARN")
	dir, err := filepath.Abs(u.parts.Dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the data folder: %w (--data chooses another)", err)
	}
	if values["TOKEN_SECRETS"] == "" {
		secret, err := keepSecret(filepath.Join(dir, "token-secret"))
		if err != nil {
			return err
		}
		values["TOKEN_SECRETS"] = secret
	}
	if u.cfg, err = loadConfig(environ(values), "ingest", "process", "sink"); err != nil {
		return err
	}
	u.log = newLogger(u.cfg.Common, u.app.stderr)
	// A taken HTTP port is said before anything else is started.
	probe, err := net.Listen("tcp", u.cfg.Ingest.Addr)
	if err != nil {
		return fmt.Errorf("HTTP: %w: end the process that has this address or choose another with --http-addr", err)
	}
	probe.Close()

	stack, err := u.startParts(ctx, values)
	if err != nil {
		return err
	}
	defer stack.Close()
	lost, err := u.prepare(ctx)
	if err != nil {
		return err
	}
	if u.demo {
		if err := u.fill(ctx, dir, lost); err != nil {
			return err
		}
	}
	return u.serve(ctx)
}

// prepare migrates, and where Kafka and ClickHouse do not belong together says what that means or, with --adopt, goes on. It returns whether
// Kafka has lost what the demo tenant needs.
func (u *upRun) prepare(ctx context.Context) (lost bool, err error) {
	in, err := reach(ctx, u.cfg, u.log)
	if err != nil {
		return false, err
	}
	defer in.close()
	err = in.migrate(ctx, io.Discard, false)
	var needed *adopt.NeededError
	if !errors.As(err, &needed) {
		return false, err
	}
	plan, problem := in.adopt(ctx, adopt.Options{Offsets: true}, u.adopt, u.app.stdout, u.app.stderr)
	if problem != nil {
		return false, errors.Join(err, problem)
	}
	if !u.adopt {
		return false, errors.Join(err, errors.New("nothing was changed: counterfoil up --adopt, with the same flags and settings, goes on as it says above"))
	}
	return slices.ContainsFunc(plan.Topics, func(t adopt.Topic) bool { return t.State != adopt.StateUnknown }), nil
}

// startParts starts the embedded parts that the environment does not name, and points the configuration at them.
func (u *upRun) startParts(ctx context.Context, values map[string]string) (*embedded.Stack, error) {
	if values["KAFKA_BROKERS"] != "" {
		u.parts.KafkaAddr = ""
	}
	if values["SCHEMA_REGISTRY_URL"] != "" {
		u.parts.RegistryAddr = ""
	}
	if values["CLICKHOUSE_ADDR"] != "" {
		u.parts.ClickHouseAddr, u.parts.ClickHouseHTTPAddr = "", ""
	}
	u.parts.Library = cmp.Or(u.parts.Library, u.cfg.Up.Library)
	u.parts.OnRestart = func(part string, cause error) {
		u.log.Warn("embedded part ended and is started again", "part", part, "cause", cause)
	}
	if u.parts.ClickHouseAddr != "" {
		var err error
		if u.demo {
			if u.password, err = demoAnalystPassword(u.parts.Dir); err != nil {
				return nil, err
			}
		}
		if u.parts.Analysts, err = embeddedAnalysts(u.parts.Dir, u.cfg.ClickHouse.Database); err != nil {
			return nil, err
		}
	}
	fmt.Fprintln(u.app.stdout, "Starting ...")
	stack, err := embedded.Start(ctx, u.parts, u.log)
	if err != nil {
		return nil, err
	}
	if a := stack.KafkaAddr(); a != "" {
		u.cfg.Kafka = KafkaConfig{Brokers: []string{a}}
	}
	if url := stack.RegistryURL(); url != "" {
		u.cfg.Registry.URL, u.cfg.Registry.User = []string{url}, ""
	}
	if a := stack.ClickHouseAddr(); a != "" {
		u.cfg.ClickHouse.Hosts, u.cfg.ClickHouse.TLS, u.cfg.ClickHouse.Cluster = []string{a}, false, ""
		u.cfg.ClickHouse.User, u.cfg.ClickHouse.Password = "default", "" // a server's, which the embedded one does not know
	}
	return stack, nil
}

// fill puts the demo tenant into an empty data folder, or one of which Kafka lost its part. The marker is written last: a fill that was cut off is
// done again.
func (u *upRun) fill(ctx context.Context, dir string, lost bool) error {
	client, err := reachKafka(ctx, u.cfg.Kafka)
	if err != nil {
		return err
	}
	defer client.Close()
	registry, err := schemas.NewRegistry(u.cfg.Registry, u.log)
	if err != nil {
		return err
	}
	id, secret, record, created, err := demoKey(dir)
	if err != nil {
		return err
	}
	u.key = id + "." + secret
	marker := filepath.Join(dir, "demo-filled")
	if _, err := os.Stat(marker); err == nil && !created && !lost {
		return nil
	}
	if err := writeKey(ctx, client, registry, &record); err != nil {
		return err
	}
	if err := fillDemo(ctx, client, registry); err != nil {
		return err
	}
	return os.WriteFile(marker, nil, 0o644)
}

// serve runs the roles until ctx is done and drains them in the order of the flow: ingest, process, sink.
func (u *upRun) serve(ctx context.Context) error {
	p, err := connect(ctx, u.cfg, u.log)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	process, err := p.process()
	if err != nil {
		return err
	}
	sink, err := p.sink()
	if err != nil {
		return err
	}
	checks := map[string]func() error{"sink": sink["sink"].Ready}
	for name, r := range process {
		checks[name] = r.Ready
	}
	service, doors, err := p.ingest(checks)
	if err != nil {
		return err
	}

	doors["topics"] = &watch{p}
	background := context.WithoutCancel(ctx)
	failed := make(chan error, 3)
	stages := []*stage{
		startStage(background, u.log, doors, failed),
		startStage(background, u.log, process, failed),
		startStage(background, u.log, sink, failed),
	}
	announced := make(chan struct{})
	announceCtx, stopAnnounce := context.WithCancel(ctx)
	go func() {
		defer close(announced)
		if waitReady(announceCtx, service.Ready) {
			u.announce(service.Addr())
		}
	}()
	var problem error
	select {
	case <-ctx.Done():
		fmt.Fprintln(u.app.stdout, "\nDraining ... (ingest, then processors, then sink)")
	case problem = <-failed:
	}
	stopAnnounce()
	<-announced
	problems := []error{problem}
	for _, s := range stages {
		problems = append(problems, s.stop())
	}
	return errors.Join(problems...)
}

// stage is a group of roles that drain together.
type stage struct {
	cancel context.CancelFunc
	done   chan error
}

func startStage(ctx context.Context, log *slog.Logger, roles map[string]role, failed chan<- error) *stage {
	ctx, cancel := context.WithCancel(ctx)
	s := &stage{cancel: cancel, done: make(chan error, 1)}
	go func() {
		err := runAll(ctx, log, roles)
		if ctx.Err() == nil { // it was not told to stop
			failed <- err
			err = nil
		}
		s.done <- err
	}()
	return s
}

func (s *stage) stop() error {
	s.cancel()
	return <-s.done
}

// waitReady asks until ready says nil; false means that ctx ended first.
func waitReady(ctx context.Context, ready func() error) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if ready() == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// announce says where everything is and what to try.
func (u *upRun) announce(httpAddr string) {
	base := "http://" + httpAddr
	var b strings.Builder
	fmt.Fprintf(&b, "\nCounterfoil is ready.\n\n")
	fmt.Fprintf(&b, "  HTTP             %s   (/healthz /readyz /metrics)\n", base)
	fmt.Fprintf(&b, "  Kafka            %s\n", strings.Join(u.cfg.Kafka.Brokers, ","))
	fmt.Fprintf(&b, "  Schema registry  %s\n", strings.Join(u.cfg.Registry.URL, ","))
	fmt.Fprintf(&b, "  ClickHouse       %s", strings.Join(u.cfg.ClickHouse.Hosts, ","))
	if u.parts.ClickHouseHTTPAddr != "" {
		fmt.Fprintf(&b, "   (HTTP %s)", u.parts.ClickHouseHTTPAddr)
	}
	fmt.Fprintf(&b, "\n  Data folder      %s\n", u.parts.Dir)
	if u.key != "" {
		id, secret, _ := strings.Cut(u.key, ".")
		login, database := "", "?database="+u.cfg.ClickHouse.Database
		if u.password != "" { // the analyst's own database is its default
			login, database = "-u "+demoAnalyst+":"+u.password+" ", ""
		}
		fmt.Fprintf(&b, `
Key of the tenant demo: %s

Try, in another terminal:

1. Give a user a product (HelloID):
curl -s -u %s:%s -H 'Content-Type: application/json' %s/api/v1/productownership/batch/ -d '[{"UserName":"TestUser","ProductSKU":"A1234-567-890"}]'

2. Log in and send customer events (CRM.COM); the second account does not exist:
TOKEN=$(curl -s -u %s: -d '{}' %s/crmapi/rest/v2/authentication/web_api_key/token | sed 's/.*"token":"\([^"]*\)".*/\1/'); curl -s %s/crmapi/rest/v2/customer_events/bulk/web/create -d '{"token":"'$TOKEN'","web_customer_events_set":[{"request_unique_identifier":"06","accounts_receivable_identifier":{"number":"ACR0000000020"},"performed_by_unit_identifier":{"name":"Admin Unit"},"performed_on":"2016-06-22T15:00:00","website":"www.crm.com"},{"request_unique_identifier":"08","accounts_receivable_identifier":{"number":"ACR00045000"},"performed_by_unit_identifier":{"name":"Admin Unit"},"performed_on":"2016-06-22T15:19:22","website":"www.crm.com"}]}'

3. A second later, read what came of them as an analyst of the tenant:
curl -s %s'http://%s/%s' -d "SELECT id, kind, processed, judged_at FROM outcomes ORDER BY judged_at DESC LIMIT 10 FORMAT PrettyCompact"
`, u.key, id, secret, base, u.key, base, base, login, u.clickhouseHTTP(), database)
	}
	fmt.Fprintf(&b, "\nCtrl-C drains and ends.\n")
	io.WriteString(u.app.stdout, b.String())
}

// clickhouseHTTP is the address of ClickHouse's HTTP interface; of a server of the environment its usual port is assumed.
func (u *upRun) clickhouseHTTP() string {
	if u.parts.ClickHouseHTTPAddr != "" {
		return u.parts.ClickHouseHTTPAddr
	}
	host, _, err := net.SplitHostPort(u.cfg.ClickHouse.Hosts[0])
	if err != nil {
		host = u.cfg.ClickHouse.Hosts[0]
	}
	return net.JoinHostPort(host, "8123")
}

// keepSecret returns the secret in path, which is made on the first call and readable to its owner only.
func keepSecret(path string) (string, error) {
	kept, err := os.ReadFile(path)
	if err == nil && len(kept) > 0 {
		return string(kept), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the token secret: %w", err)
	}
	secret := rand.Text() + rand.Text()
	return secret, keepFile(path, []byte(secret))
}

func environ(values map[string]string) []string {
	all := make([]string, 0, len(values))
	for k, v := range values {
		all = append(all, k+"="+v)
	}
	return all
}
