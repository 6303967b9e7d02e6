// Package embedded runs the parts that `counterfoil up` needs and does not get from outside: a Kafka broker
// (kfake), a schema registry (srfake) and ClickHouse (libchdb, or a clickhouse binary).
//
// Each part is a child process that executes this very binary again, for three reasons. kfake is torn when its
// own process is killed with -9: as a child it outlives such a kill just long enough to close its files. A crash
// inside the ClickHouse engine cannot take the pipeline along. And a part that ends for whatever reason is
// started again on the same address, while the roles wait and go on.
//
// What holds a child to its parent is a pipe on the child's standard input: the parent never writes to it, and
// its end, whether by Close or by the death of the parent, makes the child close cleanly and exit. Signals do
// not: a child runs in a session of its own, out of reach of the terminal's Ctrl-C, and disregards SIGINT,
// SIGTERM and SIGHUP, because a supervisor that signals a whole process group must not take the broker away
// before the roles have drained.
//
// Each part owns a folder below the data folder: `lock` (held with flock while its process lives, contains its
// process id), `log` (what it prints) and `data`. A start waits for the lock of an earlier child that is still
// closing.
//
// When the broker's own process is killed with -9, it may lose or double what was in flight, but its logs stay
// readable: a start that finds no `closed` in the folder, which a clean close leaves there, first aborts the
// transactions that have no end in the log and that the broker does not remember as open.
//
// Files: embedded.go what a caller uses; supervise.go the parent's side of a child; child.go the child's side;
// kafka.go, registry.go and clickhouse.go the parts; stamp.go the times of records; repair.go the broker's log after a kill; chdb.go the call
// into libchdb; analysts.go ClickHouse's users.
package embedded

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
)

// Names of the parts, as they stand in logs, folders and the keys of PIDs.
const (
	Kafka      = "kafka"
	Registry   = "registry"
	ClickHouse = "clickhouse"
)

// Names of the flags that Config.Flags registers; errors about a taken port name them.
const (
	FlagData           = "data"
	FlagKafka          = "kafka-addr"
	FlagRegistry       = "registry-addr"
	FlagClickHouse     = "clickhouse-addr"
	FlagClickHouseHTTP = "clickhouse-http-addr"
	FlagLibrary        = "libchdb"
)

// Config says which parts to start and where. An empty address leaves the part out; port 0 takes a free port,
// which the part keeps over restarts. Parts listen without authentication and encryption, so the addresses
// belong on the loopback interface.
type Config struct {
	Dir                string // data folder, made when absent
	KafkaAddr          string
	RegistryAddr       string
	ClickHouseAddr     string // native protocol
	ClickHouseHTTPAddr string // same host as ClickHouseAddr; needed whenever that is set
	Library            string // libchdb.so or libchdb.dylib; empty: see FindLibrary

	Analysts []Analyst // ClickHouse users besides the passwordless `default`, which is admitted from this machine only

	// OnRestart, if set, is called when a part has ended without being asked to and is about to be started
	// again, with what is known about its end. Calls for different parts may overlap.
	OnRestart func(part string, cause error)
}

// Flags registers the flags for every address and folder, with the defaults of `counterfoil up`.
func (c *Config) Flags(fs *flag.FlagSet) {
	fs.StringVar(&c.Dir, FlagData, ".counterfoil", "data `folder` of the embedded parts")
	fs.StringVar(&c.KafkaAddr, FlagKafka, "127.0.0.1:9092", "`address` of the embedded Kafka broker")
	fs.StringVar(&c.RegistryAddr, FlagRegistry, "127.0.0.1:8081", "`address` of the embedded schema registry")
	fs.StringVar(&c.ClickHouseAddr, FlagClickHouse, "127.0.0.1:9000", "`address` of the embedded ClickHouse, native protocol")
	fs.StringVar(&c.ClickHouseHTTPAddr, FlagClickHouseHTTP, "127.0.0.1:8123", "`address` of the embedded ClickHouse, HTTP")
	fs.StringVar(&c.Library, FlagLibrary, "", "`path` of libchdb (default: LIBCHDB, then .tools as installed by make tools)")
}

// PortError is returned by Start when an address that a part should listen on belongs to another process.
type PortError struct {
	Part string
	Addr string
	Flag string // the flag that moves the part elsewhere
}

func (e *PortError) Error() string {
	return fmt.Sprintf("%s: %s is taken by another process: end that process or choose another address with --%s", e.Part, e.Addr, e.Flag)
}

// Stack is the set of running parts.
type Stack struct {
	kafka, registry, clickhouse *part // nil where not asked for
}

// Start starts the parts that cfg names, side by side, and returns when each has answered a request. When one
// cannot start, the others are closed and the error says what to do; a taken port is a *PortError. When ctx
// ends before all answer, they are closed too. Once started, parts live until Close and no longer depend on ctx.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (*Stack, error) {
	if cfg.Dir == "" {
		return nil, errors.New("embedded parts: no data folder given")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("embedded parts: %w", err)
	}
	cfg.Dir = dir

	s := &Stack{}
	if cfg.KafkaAddr != "" {
		s.kafka = newPart(cfg, log, spec{Part: Kafka, Addrs: []string{cfg.KafkaAddr}}, kafkaAnswers, FlagKafka)
	}
	if cfg.RegistryAddr != "" {
		s.registry = newPart(cfg, log, spec{Part: Registry, Addrs: []string{cfg.RegistryAddr}}, registryAnswers, FlagRegistry)
	}
	if cfg.ClickHouseAddr != "" {
		sp, err := clickhouseSpec(cfg)
		if err != nil {
			return nil, err
		}
		s.clickhouse = newPart(cfg, log, sp, clickhouseAnswers, FlagClickHouse, FlagClickHouseHTTP)
	}

	var wg sync.WaitGroup
	parts := s.parts()
	errs := make([]error, len(parts))
	for i, p := range parts {
		wg.Go(func() { errs[i] = p.start(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stack) parts() []*part {
	var all []*part
	for _, p := range []*part{s.kafka, s.registry, s.clickhouse} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// Close ends the parts cleanly and returns when no process is left. It is called after the roles have drained:
// nothing that still talks to a part gets an answer from then on.
func (s *Stack) Close() {
	var wg sync.WaitGroup
	for _, p := range s.parts() {
		wg.Go(p.close)
	}
	wg.Wait()
}

// KafkaAddr is host:port of the broker, or "" when it was not asked for.
func (s *Stack) KafkaAddr() string { return s.kafka.addr(0) }

// RegistryURL is the base URL of the schema registry, or "".
func (s *Stack) RegistryURL() string {
	if s.registry == nil {
		return ""
	}
	return "http://" + s.registry.addr(0)
}

// ClickHouseAddr is host:port of ClickHouse's native protocol, or "".
func (s *Stack) ClickHouseAddr() string { return s.clickhouse.addr(0) }

// ClickHouseHTTPAddr is host:port of ClickHouse's HTTP interface, or "".
func (s *Stack) ClickHouseHTTPAddr() string { return s.clickhouse.addr(1) }

// PIDs returns the process id of each part that runs at this moment.
func (s *Stack) PIDs() map[string]int {
	ids := make(map[string]int)
	for _, p := range s.parts() {
		if pid := p.pid(); pid != 0 {
			ids[p.name()] = pid
		}
	}
	return ids
}

// checkAddr refuses what cannot be listened on before a child is started for it.
func checkAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	_, err = net.LookupPort("tcp", port)
	return err
}
