package embedded_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
)

// Further lives of the test binary, chosen by environment variable.
const (
	parentEnv = "EMBEDDED_TEST_PARENT" // starts the stack of the Config in the value, a JSON array, and waits to be killed
	serverEnv = "EMBEDDED_TEST_SERVER" // plays a clickhouse binary
)

func TestMain(m *testing.M) {
	embedded.RunChild()
	if text, ok := os.LookupEnv(parentEnv); ok {
		must(runParent(text))
	}
	if _, ok := os.LookupEnv(serverEnv); ok {
		must(runServer())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// started is what a parent prints once its stack answers.
type started struct {
	PIDs map[string]int
}

func runParent(text string) error {
	var args []string
	if err := json.Unmarshal([]byte(text), &args); err != nil {
		return err
	}
	cfg := embedded.Config{Dir: args[0], KafkaAddr: args[1], RegistryAddr: args[2], ClickHouseAddr: args[3], ClickHouseHTTPAddr: args[4]}
	s, err := embedded.Start(context.Background(), cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(started{s.PIDs()}); err != nil {
		return err
	}
	select {}
}

// startParent runs a process that has the stack of cfg, and returns when it answers.
func startParent(t *testing.T, cfg embedded.Config) (*exec.Cmd, started) {
	t.Helper()
	text, err := json.Marshal([]string{cfg.Dir, cfg.KafkaAddr, cfg.RegistryAddr, cfg.ClickHouseAddr, cfg.ClickHouseHTTPAddr})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), parentEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var up started
	if err := json.NewDecoder(out).Decode(&up); err != nil {
		t.Fatalf("the parent's stack did not start: %v", err)
	}
	return cmd, up
}

// config asks for all parts on free ports.
func config(dir string) embedded.Config {
	return embedded.Config{
		Dir:       dir,
		KafkaAddr: "127.0.0.1:0", RegistryAddr: "127.0.0.1:0",
		ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.1:0",
	}
}

func start(t *testing.T, cfg embedded.Config) *embedded.Stack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := embedded.Start(ctx, cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// eventually asks until the answer is nil or a time has passed that only a broken part needs.
func eventually(t *testing.T, ask func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// gone waits until none of the processes is left.
func gone(t *testing.T, pids map[string]int) {
	t.Helper()
	eventually(t, func() error {
		for name, pid := range pids {
			if alive(pid) {
				return fmt.Errorf("%s, process %d, is still there", name, pid)
			}
		}
		return nil
	})
}

func query(s *embedded.Stack, user, password, sql string) (string, error) {
	return queryAt(s.ClickHouseHTTPAddr(), user, password, sql)
}

func queryAt(addr, user, password, sql string) (string, error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+addr, strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	req.SetBasicAuth(user, password)
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", errors.New(string(text))
	}
	return strings.TrimSpace(string(text)), nil
}

// write leaves a mark in each part.
func write(t *testing.T, s *embedded.Stack) {
	t.Helper()
	ctx := t.Context()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.KafkaAddr()), kgo.DefaultProduceTopic("marks"), kgo.TransactionalID("marks"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, "marks"); err != nil {
		t.Fatal(err)
	}
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(ctx, kgo.StringRecord("kept")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	offsets := make(kadm.Offsets)
	offsets.AddOffset("marks", 0, 2, -1)
	if err := adm.CommitAllOffsets(ctx, "group", offsets); err != nil {
		t.Fatal(err)
	}

	reg, err := sr.NewClient(sr.URLs(s.RegistryURL()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := reg.CreateSchema(ctx, "marks-value", sr.Schema{Schema: fmt.Sprintf(`{"type":"fixed","name":"f","size":%d}`, i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, sql := range []string{
		"CREATE DATABASE IF NOT EXISTS marks",
		"CREATE TABLE marks.t (x UInt8) ENGINE = MergeTree ORDER BY x",
		"INSERT INTO marks.t VALUES (1), (2)",
	} {
		if _, err := query(s, "default", "", sql); err != nil {
			t.Fatal(err)
		}
	}
}

// remembered checks every mark.
func remembered(t *testing.T, s *embedded.Stack) {
	t.Helper()
	ctx := t.Context()
	if got := committed(t, s.KafkaAddr(), "marks"); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("Kafka has %q", got)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.KafkaAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	offsets, err := kadm.NewClient(client).FetchOffsets(ctx, "group")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := offsets.Lookup("marks", 0); o.At != 2 {
		t.Errorf("the group's offset is %d", o.At)
	}
	reg, err := sr.NewClient(sr.URLs(s.RegistryURL()))
	if err != nil {
		t.Fatal(err)
	}
	schema, err := reg.SchemaByID(ctx, 3)
	if err != nil || schema.Schema != `{"type":"fixed","name":"f","size":3}` {
		t.Errorf("schema 3 is %q, %v", schema.Schema, err)
	}
	if got, err := query(s, "default", "", "SELECT sum(x) FROM marks.t"); err != nil || got != "3" {
		t.Errorf("ClickHouse has %q, %v", got, err)
	}
}

// committed reads the values of all committed records of a topic.
func committed(t *testing.T, addr, topic string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	end, _ := ends.Lookup(topic, 0)
	var values []string
	for at := int64(0); at < end.Offset; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s up to %d, at %d: %v", topic, end.Offset, at, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				values = append(values, string(r.Value))
			}
			at = r.Offset + 1
		})
	}
	return values
}

func TestStackRemembersOverACleanRestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, config(dir))
	write(t, s)
	pids := s.PIDs()
	if len(pids) != 3 {
		t.Fatalf("running: %v", pids)
	}
	begun := time.Now()
	s.Close()
	for name, pid := range pids {
		if alive(pid) {
			t.Errorf("%s, process %d, outlives Close", name, pid)
		}
	}
	t.Logf("closed in %v", time.Since(begun))
	begun = time.Now()
	s = start(t, config(dir))
	t.Logf("started in %v", time.Since(begun))
	remembered(t, s)
}

func TestKilledPartComesBackOnItsAddress(t *testing.T) {
	var mu sync.Mutex
	restarts := map[string]int{}
	cfg := config(t.TempDir())
	cfg.OnRestart = func(part string, _ error) {
		mu.Lock()
		defer mu.Unlock()
		restarts[part]++
	}
	s := start(t, cfg)
	write(t, s)
	want := []string{s.KafkaAddr(), s.RegistryURL(), s.ClickHouseAddr(), s.ClickHouseHTTPAddr()}
	for name, pid := range s.PIDs() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if now := s.PIDs()[name]; now == pid || now == 0 {
				return fmt.Errorf("%s has not come back", name)
			}
			return nil
		})
	}
	remembered(t, s)
	if diff := cmp.Diff(want, []string{s.KafkaAddr(), s.RegistryURL(), s.ClickHouseAddr(), s.ClickHouseHTTPAddr()}); diff != "" {
		t.Error("addresses changed: ", diff)
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(map[string]int{"kafka": 1, "registry": 1, "clickhouse": 1}, restarts); diff != "" {
		t.Error("restarts: ", diff)
	}
}

func TestSignalsDoNotReachParts(t *testing.T) {
	s := start(t, config(t.TempDir()))
	write(t, s)
	pids := s.PIDs()
	for _, pid := range pids {
		if sid, err := sessionOf(pid); err != nil || sid != pid {
			t.Errorf("process %d is in session %d, %v", pid, sid, err)
		}
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(200 * time.Millisecond)
	remembered(t, s)
	if diff := cmp.Diff(pids, s.PIDs()); diff != "" {
		t.Error(diff)
	}
}

// A parent killed at any moment of a load of transactions leaves no process, and what is there afterwards is
// every acknowledged transaction and nothing of an unacknowledged one but the last, which is there as a whole or
// not at all.
func TestParentKilledUnderLoad(t *testing.T) {
	const size = 20 // records a transaction
	dir := t.TempDir()
	acknowledged, next := -1, 0 // last acknowledged transaction; next one to try
	for round := range 4 {
		cfg := config(dir)
		cfg.KafkaAddr = freeAddr(t)
		cfg.RegistryAddr, cfg.ClickHouseAddr, cfg.ClickHouseHTTPAddr = freeAddr(t), freeAddr(t), freeAddr(t)
		parent, up := startParent(t, cfg)
		if round == 0 {
			if _, err := queryAt(cfg.ClickHouseHTTPAddr, "default", "", "CREATE TABLE default.acked (n Int64) ENGINE = MergeTree ORDER BY n"); err != nil {
				t.Fatal(err)
			}
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(cfg.KafkaAddr), kgo.DefaultProduceTopic("load"),
			kgo.TransactionalID("load"), kgo.TransactionTimeout(2*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, 1, nil, "load"); err != nil && round == 0 {
			t.Fatal(err)
		}
		begun := make(chan struct{}) // closed at the first acknowledgement
		go func() {
			select {
			case <-begun:
				time.Sleep(time.Duration(300+rand.IntN(500)) * time.Millisecond)
			case <-time.After(time.Minute):
			}
			_ = parent.Process.Kill()
			time.Sleep(200 * time.Millisecond)
			client.Close() // a record on its way would wait for the broker to come back
		}()
		before := acknowledged
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			err := transaction(ctx, client, next, size)
			cancel()
			next++
			if err != nil {
				break
			}
			if acknowledged == before {
				close(begun)
			}
			acknowledged = next - 1
			if acknowledged%10 == 0 {
				if _, err := queryAt(cfg.ClickHouseHTTPAddr, "default", "", fmt.Sprintf("INSERT INTO default.acked VALUES (%d)", acknowledged)); err != nil {
					break
				}
			}
		}
		_ = parent.Wait() // fails with what the kill left
		gone(t, up.PIDs)
		if acknowledged == before {
			t.Error("no transaction was acknowledged before the kill")
		}
	}

	s := start(t, config(dir))
	seen := make(map[string]int)
	for _, v := range committed(t, s.KafkaAddr(), "load") {
		seen[v]++
	}
	for n := range next {
		c := seen[fmt.Sprint(n)]
		if c != size && c != 0 {
			t.Errorf("%d of %d records of transaction %d are there", c, size, n)
		}
	}
	if seen[fmt.Sprint(acknowledged)] != size {
		t.Errorf("transaction %d was acknowledged and is lost", acknowledged)
	}
	if got, err := query(s, "default", "", "SELECT count() > 0 FROM default.acked"); err != nil || got != "1" {
		t.Errorf("ClickHouse lost its rows: %q, %v", got, err)
	}
}

func transaction(ctx context.Context, client *kgo.Client, n, size int) error {
	if err := client.BeginTransaction(); err != nil {
		return err
	}
	records := make([]*kgo.Record, size)
	for i := range records {
		records[i] = kgo.StringRecord(fmt.Sprint(n))
	}
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return err
	}
	return client.EndTransaction(ctx, kgo.TryCommit)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestStartWaitsForAnEarlierOneToClose(t *testing.T) {
	cfg := embedded.Config{Dir: t.TempDir(), KafkaAddr: "127.0.0.1:0"}
	first := start(t, cfg)
	second := make(chan error, 1)
	var s *embedded.Stack
	go func() {
		var err error
		s, err = embedded.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
		second <- err
	}()
	select {
	case err := <-second:
		t.Fatalf("a second one started on the same folder (%v)", err)
	case <-time.After(300 * time.Millisecond):
	}
	first.Close()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestTakenPortIsNamedWithItsFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for flag, set := range map[string]func(*embedded.Config){
		"kafka-addr":           func(c *embedded.Config) { c.KafkaAddr = taken },
		"registry-addr":        func(c *embedded.Config) { c.RegistryAddr = taken },
		"clickhouse-addr":      func(c *embedded.Config) { c.ClickHouseAddr, c.ClickHouseHTTPAddr = taken, "127.0.0.1:0" },
		"clickhouse-http-addr": func(c *embedded.Config) { c.ClickHouseAddr, c.ClickHouseHTTPAddr = "127.0.0.1:0", taken },
	} {
		t.Run(flag, func(t *testing.T) {
			cfg := embedded.Config{Dir: t.TempDir()}
			set(&cfg)
			s, err := embedded.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
			var port *embedded.PortError
			if !errors.As(err, &port) {
				t.Fatalf("started %v, %v", s, err)
			}
			if port.Addr != taken || port.Flag != flag {
				t.Errorf("got %+v", port)
			}
		})
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  embedded.Config
		want string
	}{
		"no folder":        {embedded.Config{KafkaAddr: "127.0.0.1:0"}, "no data folder"},
		"address":          {embedded.Config{Dir: t.TempDir(), KafkaAddr: "9092"}, `address "9092"`},
		"two hosts":        {embedded.Config{Dir: t.TempDir(), ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.2:0"}, "same host"},
		"absent library":   {embedded.Config{Dir: t.TempDir(), ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.1:0", Library: "/nowhere"}, "/nowhere"},
		"some other file":  {embedded.Config{Dir: t.TempDir(), ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.1:0", Library: os.Args[0]}, "load "},
		"analyst's tenant": {embedded.Config{Dir: t.TempDir(), ClickHouseAddr: "127.0.0.1:0", ClickHouseHTTPAddr: "127.0.0.1:0", Analysts: []embedded.Analyst{{Name: "a", PasswordSHA256: strings.Repeat("0", 64), Reader: "r", Database: "d"}}}, "no tenant"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := embedded.Start(t.Context(), tt.cfg, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// TestClickHouseBinary runs the path for platforms without libchdb with a program that stands in for
// `clickhouse server`: it reads the configuration, answers on both ports and ends with SIGTERM.
func TestClickHouseBinary(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexport %s=1\nexec %q \"$@\"\n", serverEnv, self)
	if err := os.WriteFile(filepath.Join(bin, "clickhouse"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("LIBCHDB", "")
	t.Chdir(t.TempDir()) // no .tools above, nor above the test binary
	cfg := config(t.TempDir())
	cfg.KafkaAddr, cfg.RegistryAddr = "", ""
	s := start(t, cfg)
	pid, err := query(s, "default", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PIDs()[embedded.ClickHouse], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		now, err := query(s, "default", "", "")
		if err == nil && now == pid {
			return errors.New("the server outlives what runs it")
		}
		return err
	})
	s.Close()
	if _, err := query(s, "default", "", ""); err == nil {
		t.Error("the server outlives Close")
	}
}

// runServer answers every request with its process id.
func runServer() error {
	if len(os.Args) != 4 || os.Args[1] != "server" || os.Args[2] != "--config-file" {
		return fmt.Errorf("called with %q", os.Args)
	}
	text, err := os.ReadFile(os.Args[3])
	if err != nil {
		return err
	}
	var cfg struct {
		Host  string `xml:"listen_host"`
		TCP   string `xml:"tcp_port"`
		HTTP  string `xml:"http_port"`
		Users string `xml:"user_directories>users_xml>path"`
	}
	if err := xml.Unmarshal(text, &cfg); err != nil {
		return err
	}
	if _, err := os.Stat(cfg.Users); err != nil {
		return err
	}
	native, err := net.Listen("tcp", net.JoinHostPort(cfg.Host, cfg.TCP))
	if err != nil {
		return err
	}
	defer native.Close()
	go func() {
		_ = http.ListenAndServe(net.JoinHostPort(cfg.Host, cfg.HTTP), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, os.Getpid())
		}))
	}()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	<-asked
	return nil
}

func sessionOf(pid int) (int, error) {
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sid), nil
}
