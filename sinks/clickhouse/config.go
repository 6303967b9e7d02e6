package clickhouse

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"time"
)

// Config is how to reach ClickHouse; migrate, the reports and the sink share it.
type Config struct {
	Hosts    []string `env:"CLICKHOUSE_ADDR" envDefault:"127.0.0.1:9000" desc:"host:port of ClickHouse (native protocol), several separated by commas; with CLICKHOUSE_CLUSTER they are only asked for its nodes"`
	Database string   `env:"CLICKHOUSE_DATABASE" envDefault:"counterfoil" desc:"database of all tables and views"`
	User     string   `env:"CLICKHOUSE_USER" envDefault:"default" desc:"user name"`
	Password string   `env:"CLICKHOUSE_PASSWORD" secret:"true" desc:"password"`
	TLS      bool     `env:"CLICKHOUSE_TLS" desc:"connect with TLS"`
	CAFile   string   `env:"CLICKHOUSE_TLS_CA_FILE" desc:"PEM file of the certificate authorities to trust; the system's when empty"`
	Cluster  string   `env:"CLICKHOUSE_CLUSTER" desc:"name of a cluster in ClickHouse's remote_servers; empty for a single server"`
	NodePort int      `env:"CLICKHOUSE_NODE_PORT" desc:"client port of a cluster's nodes, where it differs from the one in remote_servers"`
}

// SinkConfig is how the sink works.
type SinkConfig struct {
	FlushRows     int           `env:"SINK_FLUSH_ROWS" envDefault:"100000" desc:"rows in one insert; up to four times as many while the table is busy with the one before"`
	FlushBytes    int           `env:"SINK_FLUSH_BYTES" envDefault:"67108864" desc:"bytes of records in one insert; with SINK_FLUSH_ROWS it bounds the memory of the sink"`
	FlushInterval time.Duration `env:"SINK_FLUSH_INTERVAL" envDefault:"1s" desc:"the longest that a row waits for its insert to begin; calls, which sales wait for, never wait longer than 200ms"`
	Lease         time.Duration `env:"SINK_LEASE" envDefault:"10s" desc:"how long after a commit its owner may insert, and how long a successor waits; the same in every copy of the sink"`
	Session       time.Duration `env:"SINK_SESSION_TIMEOUT" envDefault:"10s" desc:"how long Kafka waits for a silent copy before others take its partitions"`
	Instance      string        // name of this copy; empty: random, dynamic membership
	NumberBase    int64         // what batch numbers begin after; [New] takes it from the epochs
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Validate returns every problem of the configuration at once.
func (c *Config) Validate() error {
	var errs []error
	if len(c.Hosts) == 0 {
		errs = append(errs, errors.New("CLICKHOUSE_ADDR names no host"))
	}
	// The names go into SQL text as they are.
	if !identifier.MatchString(c.Database) {
		errs = append(errs, fmt.Errorf("CLICKHOUSE_DATABASE %q is not a plain identifier", c.Database))
	}
	if c.Cluster != "" && !identifier.MatchString(c.Cluster) {
		errs = append(errs, fmt.Errorf("CLICKHOUSE_CLUSTER %q is not a plain identifier", c.Cluster))
	}
	if c.NodePort < 0 || c.NodePort > math.MaxUint16 {
		errs = append(errs, fmt.Errorf("CLICKHOUSE_NODE_PORT %d is not between 0 and 65535", c.NodePort))
	}
	if _, err := c.options(c.Hosts); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *SinkConfig) Validate() error {
	var errs []error
	// More rows would no longer be one part, and so no atomic insert.
	if c.FlushRows < 1 || c.FlushRows > maxBlockRows {
		errs = append(errs, fmt.Errorf("SINK_FLUSH_ROWS %d is not between 1 and 1000000", c.FlushRows))
	}
	if c.FlushBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("SINK_FLUSH_BYTES %d is less than 1 MiB", c.FlushBytes))
	}
	if c.FlushInterval <= 0 {
		errs = append(errs, errors.New("SINK_FLUSH_INTERVAL must be positive"))
	}
	if c.Lease < time.Second {
		errs = append(errs, fmt.Errorf("SINK_LEASE %s is less than 1s", c.Lease))
	}
	if c.Session < time.Second {
		errs = append(errs, fmt.Errorf("SINK_SESSION_TIMEOUT %s is less than 1s", c.Session))
	}
	return errors.Join(errs...)
}
