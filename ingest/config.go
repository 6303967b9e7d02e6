package ingest

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// Limits of one request.
const (
	MaxItems     = 10_000   // items in a batch
	MaxBodyBytes = 16 << 20 // bytes of a body, after unpacking
	MaxDepth     = 64       // nesting of a body
	maxHeader    = 64 << 10 // bytes of all request headers

	MaxWait = time.Minute // for outcomes, where a caller says how long ([Batch].Wait)
)

// Config is how the service works. The zero value is not usable: parse it with caarlos0/env, whose defaults are the ones to use.
type Config struct {
	Addr     string `env:"HTTP_ADDR" envDefault:"127.0.0.1:8080" desc:"host:port on which the HTTP API listens"`
	Instance string // name of this copy; empty: random, dynamic membership

	Wait         time.Duration `env:"REPLY_WAIT" envDefault:"10s" desc:"how long a caller waits for outcomes before it gets the pending answer; and beyond INGEST_PUBLISH_TIMEOUT for Kafka to say whether its batch was committed, before the connection is closed without an answer"`
	DrainTimeout time.Duration `env:"INGEST_DRAIN_TIMEOUT" envDefault:"20s" desc:"how long a stop waits for requests at work"`
	BodyTimeout  time.Duration `env:"BODY_TIMEOUT" envDefault:"30s" desc:"how long a client may take to send its request"`

	Producers       int           `env:"INGEST_PRODUCERS" envDefault:"2" desc:"transactional producers in rotation, 1 to 4"`
	PublishTimeout  time.Duration `env:"INGEST_PUBLISH_TIMEOUT" envDefault:"5s" desc:"how long a batch may wait for its place in a transaction, and again to be written, before it is refused with 503"`
	TxnTimeout      time.Duration `env:"TRANSACTION_TIMEOUT" envDefault:"10s" desc:"after which Kafka aborts a transaction that its producer left open"`
	ReplyPartitions int           `env:"INGEST_REPLY_PARTITIONS" envDefault:"2" desc:"partitions of each result topic that this copy reads"`

	ByteBudget   int64         `env:"INGEST_BYTE_BUDGET" envDefault:"134217728" desc:"bytes of requests at work and of batches not yet judged; beyond it new ones wait, then get 503"`
	BudgetWait   time.Duration `env:"INGEST_BUDGET_WAIT" envDefault:"1s" desc:"how long a request waits for its place in the byte budget"`
	BacklogLimit time.Duration `env:"BACKLOG_LIMIT" envDefault:"60s" desc:"age of the oldest unjudged item beyond which new batches get 503"`

	SinkWait      time.Duration `env:"SINK_WAIT" envDefault:"2s" desc:"how long a GET waits until ClickHouse has what was written before it, then 503"`
	SinkWaitStart time.Duration `env:"SINK_WAIT_START" envDefault:"15s" desc:"the same during the first such time after a start"`

	TokenSecrets   []string       `env:"TOKEN_SECRETS" secret:"true" desc:"secrets that sign login tokens, comma separated, at least 16 characters each: the first signs, all verify; the same in every copy"`
	TrustedProxies []netip.Prefix `env:"TRUSTED_PROXIES" desc:"addresses (prefixes) of proxies whose X-Forwarded-For is believed, comma separated"`
}

// Validate returns every problem of the configuration at once.
func (c *Config) Validate() error {
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"REPLY_WAIT", c.Wait}, {"INGEST_DRAIN_TIMEOUT", c.DrainTimeout}, {"BODY_TIMEOUT", c.BodyTimeout}, {"INGEST_PUBLISH_TIMEOUT", c.PublishTimeout},
		{"TRANSACTION_TIMEOUT", c.TxnTimeout}, {"INGEST_BUDGET_WAIT", c.BudgetWait}, {"BACKLOG_LIMIT", c.BacklogLimit}, {"SINK_WAIT", c.SinkWait},
	} {
		if d.value <= 0 {
			errs = append(errs, fmt.Errorf("%s must be more than 0, not %s", d.name, d.value))
		}
	}
	if c.SinkWaitStart < 0 {
		errs = append(errs, fmt.Errorf("SINK_WAIT_START must be 0 or more, not %s", c.SinkWaitStart))
	}
	if err := CheckListenAddr("HTTP_ADDR", c.Addr); err != nil {
		errs = append(errs, err)
	}
	if c.Producers < 1 || c.Producers > 4 {
		errs = append(errs, fmt.Errorf("INGEST_PRODUCERS %d is not between 1 and 4", c.Producers))
	}
	if c.ReplyPartitions < 1 {
		errs = append(errs, fmt.Errorf("INGEST_REPLY_PARTITIONS %d is less than 1", c.ReplyPartitions))
	}
	if c.ByteBudget < 2*MaxBodyBytes {
		errs = append(errs, fmt.Errorf("INGEST_BYTE_BUDGET %d is less than two of the largest bodies, %d", c.ByteBudget, 2*MaxBodyBytes))
	}
	if len(c.TokenSecrets) == 0 {
		errs = append(errs, errors.New("TOKEN_SECRETS is empty: set one secret of at least 16 characters, the same in every copy"))
	}
	for i, s := range c.TokenSecrets {
		if len(s) < 16 {
			errs = append(errs, fmt.Errorf("TOKEN_SECRETS: secret %d has fewer than 16 characters", i+1))
		}
	}
	return errors.Join(errs...)
}

// CheckListenAddr refuses a setting on which no server could listen. It asks nobody for the host.
func CheckListenAddr(name, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("%s is %q: write host:port, or :port for all addresses: %w", name, addr, err)
	}
	return nil
}

// Deps is what the service needs of the others.
type Deps struct {
	Kafka    []kgo.Opt // seeds, TLS, SASL
	Registry *schemas.Registry
	Epochs   schemas.Epochs
	Keys     Keys                    // the table of api_keys; whoever made it runs it
	Reports  Reports                 // ClickHouse
	Checks   map[string]func() error // further conditions of /readyz, by name
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	Gatherer prometheus.Gatherer // what /metrics shows; nil: no /metrics
}

// Keys finds API keys; processors/reference has it.
type Keys interface {
	APIKey(id string) *schemas.APIKey // nil: there is none
	Ready() error                     // nil once all keys are loaded
}
