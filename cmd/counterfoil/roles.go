package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/avon"
	"github.com/counterfoil/counterfoil/ingest/caliq"
	"github.com/counterfoil/counterfoil/ingest/crmcom"
	"github.com/counterfoil/counterfoil/ingest/helloid"
	"github.com/counterfoil/counterfoil/ingest/mediahawk"
	"github.com/counterfoil/counterfoil/ingest/openapi"
	"github.com/counterfoil/counterfoil/ingest/v1"
	"github.com/counterfoil/counterfoil/processors"
	"github.com/counterfoil/counterfoil/processors/reference"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// parts is what the roles of one process share.
type parts struct {
	cfg      *Config
	log      *slog.Logger
	metrics  *prometheus.Registry
	kafka    []kgo.Opt
	registry *schemas.Registry
	conn     *clickhouse.Conn
	epochs   schemas.Epochs
}

// connect reaches Kafka, the registry and ClickHouse and checks that migrate has prepared them.
func connect(ctx context.Context, cfg *Config, log *slog.Logger) (*parts, error) {
	p := &parts{cfg: cfg, log: log, metrics: prometheus.NewRegistry()}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	if p.kafka, err = cfg.Kafka.Opts(); err != nil {
		return nil, err
	}
	if cfg.Common.Instance != "" {
		// The broker's logs, metrics and quotas tell copies apart. Clipped, because each role appends to it.
		p.kafka = slices.Clip(append(p.kafka, kgo.ClientID("counterfoil-"+cfg.Common.Instance)))
	}
	client, err := reachKafka(ctx, cfg.Kafka)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if p.registry, err = schemas.NewRegistry(cfg.Registry, log); err != nil {
		return nil, err
	}
	if p.conn, err = clickhouse.Open(ctx, cfg.ClickHouse); err != nil {
		return nil, err
	}
	if p.epochs, err = checkPrepared(ctx, p.conn, kadm.NewClient(client)); err != nil {
		return nil, errors.Join(err, p.conn.Close())
	}
	return p, nil
}

// role is a running part of the process.
type role interface {
	// Run works until ctx is done, then drains and returns nil; any other return ends the process.
	Run(ctx context.Context) error
	// Ready is nil while the role does its job.
	Ready() error
}

// process makes the processors.
func (p *parts) process() (map[string]role, error) {
	roles := map[string]role{}
	for _, name := range processors.Names() {
		r, err := processors.New(p.cfg.Process, processors.Deps{
			Kafka: p.kafka, Registry: p.registry, Epochs: p.epochs, Calls: p.conn, Log: p.log, Metrics: p.metrics,
		}, name)
		if err != nil {
			return nil, err
		}
		roles[name] = r
	}
	return roles, nil
}

// sink makes the writer to ClickHouse.
func (p *parts) sink() (map[string]role, error) {
	s, err := clickhouse.New(p.cfg.Sink, clickhouse.Deps{
		Conn: p.conn, Kafka: p.kafka, Registry: p.registry, Epochs: p.epochs, Log: p.log, Metrics: p.metrics, Check: validation.RecordCheck(p.registry),
	})
	return map[string]role{"sink": s}, err
}

// ingest makes the HTTP service with all doors, and the table of API keys that it reads. checks are further conditions of its readiness.
func (p *parts) ingest(checks map[string]func() error) (*ingest.Service, map[string]role, error) {
	keys, err := reference.New([]string{schemas.APIKeys}, reference.Deps{
		Kafka: p.kafka, Registry: p.registry, Log: p.log, Metrics: p.metrics, Role: "ingest", Check: validation.CheckRecord,
	})
	if err != nil {
		return nil, nil, err
	}
	reports := p.conn.Reports()
	service, err := ingest.New(p.cfg.Ingest, ingest.Deps{
		Kafka: p.kafka, Registry: p.registry, Epochs: p.epochs, Keys: keys, Reports: reports, Checks: checks,
		Log: p.log, Metrics: p.metrics, Gatherer: p.metrics,
	})
	if err != nil {
		return nil, nil, err
	}
	openapi.Register(service.Mux())
	v1.New(service).Register(service.Mux())
	crmcom.New(service).Register(service.Mux())
	helloid.New(service, reports).Register(service.Mux())
	mediahawk.New(service, reports).Register(service.Mux())
	avon.New(service).Register(service.Mux())
	caliq.New(service, reports).Register(service.Mux())
	return service, map[string]role{"ingest": service, "keys": keys}, nil
}

// roleCommand is a subcommand that runs one role until it is told to stop.
func roleCommand(name, summary, help string, start func(p *parts) (map[string]role, error), ops bool) *command {
	return &command{
		name: name, summary: summary, help: help,
		run: func(ctx context.Context, app *app, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: %s takes no arguments", errUsage, name)
			}
			cfg, err := loadConfig(app.environ, name)
			if err != nil {
				return err
			}
			p, err := connect(ctx, cfg, newLogger(cfg.Common, app.stderr))
			if err != nil {
				return err
			}
			defer p.conn.Close()
			roles, err := start(p)
			if err != nil {
				return err
			}
			if ops {
				listener, err := net.Listen("tcp", cfg.Common.OpsAddr)
				if err != nil {
					return fmt.Errorf("serve /healthz, /readyz and /metrics: %w (OPS_ADDR chooses another address)", err)
				}
				roles["ops"] = &opsServer{listener: listener, handler: opsHandler(p.metrics, roles)}
				p.log.Info("serving /healthz, /readyz and /metrics", "address", listener.Addr().String())
			}
			roles["topics"] = &watch{p}
			return runAll(ctx, p.log, roles)
		},
	}
}

// runAll runs roles until ctx is done or one of them fails, and waits for all of them.
func runAll(ctx context.Context, log *slog.Logger, roles map[string]role) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(roles))
	for name, r := range roles {
		go func() {
			err := r.Run(ctx)
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			} else if ctx.Err() == nil {
				err = fmt.Errorf("%s ended by itself", name)
			}
			ended <- err
		}()
	}
	var problems []error
	for range roles {
		if err := <-ended; err != nil {
			log.Error("role ended", "error", err)
			problems = append(problems, err)
			cancel()
		}
	}
	return errors.Join(problems...)
}

// opsServer serves health and metrics of roles that have no HTTP port of their own.
type opsServer struct {
	listener net.Listener
	handler  http.Handler
}

func (s *opsServer) Ready() error { return nil }

func (s *opsServer) Run(ctx context.Context) error {
	server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	stopped := context.AfterFunc(ctx, func() { server.Close() })
	defer stopped()
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func opsHandler(metrics *prometheus.Registry, roles map[string]role) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		for name, r := range roles {
			if err := r.Ready(); err != nil {
				http.Error(w, fmt.Sprintf("%s: %v", name, err), http.StatusServiceUnavailable)
				return
			}
		}
		io.WriteString(w, "ready\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return mux
}

func ingestCommand() *command {
	return roleCommand("ingest", "run the HTTP service: partners' APIs in, outcomes back", `Serves the partners' HTTP APIs, publishes what they send to Kafka and carries the outcomes back. Run as many copies as you like behind a
load balancer; each answers for itself. /healthz, /readyz and /metrics are on the same port (HTTP_ADDR).

Example:
  KAFKA_BROKERS=kafka-1:9092 CLICKHOUSE_ADDR=ch-1:9000 SCHEMA_REGISTRY_URL=http://registry:8081 TOKEN_SECRETS=... counterfoil ingest`,
		func(p *parts) (map[string]role, error) {
			_, roles, err := p.ingest(nil)
			return roles, err
		}, false)
}

func processCommand() *command {
	return roleCommand("process", "run the processors: judge items, exactly once", `Judges items: reads them from Kafka, decides, and writes outcomes, state and consumed offsets in one Kafka transaction. Copies share the
partitions; one copy more than partitions idles. Give each copy an INSTANCE of its own to keep its partitions over a restart.

Example:
  INSTANCE=process-1 KAFKA_BROKERS=kafka-1:9092 SCHEMA_REGISTRY_URL=http://registry:8081 CLICKHOUSE_ADDR=ch-1:9000 counterfoil process`,
		(*parts).process, true)
}

func sinkCommand() *command {
	return roleCommand("sink", "run the sink: outcomes into ClickHouse, exactly once", `Writes outcomes, batches, dead letters and reference records from Kafka to ClickHouse. Copies share the partitions. Give each copy an
INSTANCE of its own to keep its partitions over a restart.

Example:
  INSTANCE=sink-1 KAFKA_BROKERS=kafka-1:9092 SCHEMA_REGISTRY_URL=http://registry:8081 CLICKHOUSE_ADDR=ch-1:9000 counterfoil sink`,
		(*parts).sink, true)
}

// newLogger logs to w, text for people or JSON for machines.
func newLogger(cfg CommonConfig, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
