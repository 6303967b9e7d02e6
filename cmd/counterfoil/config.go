package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/caarlos0/env/v11"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/processors"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// Config is every setting of every role. The parts belong to the packages that they configure; this is the only place that reads them from
// the environment.
type Config struct {
	Common     CommonConfig           `section:"All roles"`
	Kafka      KafkaConfig            `section:"Kafka"`
	Topics     TopicsConfig           `section:"Topics (read by migrate)"`
	Registry   schemas.RegistryConfig `section:"Schema registry"`
	ClickHouse clickhouse.Config      `section:"ClickHouse"`
	Ingest     ingest.Config          `section:"Role ingest" role:"ingest"`
	Process    processors.Config      `section:"Role process" role:"process"`
	Sink       clickhouse.SinkConfig  `section:"Role sink" role:"sink"`
	Up         UpConfig               `section:"Command up"`
}

// CommonConfig is what all roles share.
type CommonConfig struct {
	Instance string     `env:"INSTANCE" desc:"name of this copy, unlike that of every other: keeps its partitions over a restart (static membership); a random one for the life of the process when empty"`
	LogLevel slog.Level `env:"LOG_LEVEL" envDefault:"INFO" desc:"DEBUG, INFO, WARN or ERROR"`
	LogJSON  bool       `env:"LOG_JSON" desc:"log JSON lines instead of text"`
	OpsAddr  string     `env:"OPS_ADDR" envDefault:":9100" desc:"where process and sink serve /healthz, /readyz and /metrics; ingest serves them on its own port"`
}

// Validate names every problem.
func (c *CommonConfig) Validate() error { return ingest.CheckListenAddr("OPS_ADDR", c.OpsAddr) }

// UpConfig is read by up, and by nobody else.
type UpConfig struct {
	Library string `env:"LIBCHDB" desc:"path of libchdb, the embedded ClickHouse; the one that make tools has installed when empty"`
}

// TopicsConfig is read by migrate when it creates topics.
type TopicsConfig struct {
	Partitions  int `env:"TOPIC_PARTITIONS" envDefault:"12" desc:"partitions of item, result and state topics; chosen at the first migrate, never changed afterwards"`
	Replication int `env:"TOPIC_REPLICATION" envDefault:"0" desc:"copies of each partition; 0: three, or as many as there are brokers"`
}

// Validate names every problem.
func (c *TopicsConfig) Validate() error {
	var problems []error
	if c.Partitions < 1 || c.Partitions > 1024 {
		problems = append(problems, fmt.Errorf("TOPIC_PARTITIONS is %d: choose 1 to 1024", c.Partitions))
	}
	if c.Replication < 0 {
		problems = append(problems, fmt.Errorf("TOPIC_REPLICATION is %d: choose 0 or more", c.Replication))
	}
	return errors.Join(problems...)
}

// loadConfig reads the environment and checks the sections that all roles share and those of the roles that are named. The error has one line
// for every variable that is wrong.
func loadConfig(environ []string, roles ...string) (*Config, error) {
	values := env.ToMap(environ)
	problems := dropUnreadable(values)
	var cfg Config
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: values}); err != nil {
		problems = append(problems, err)
	}
	cfg.Ingest.Instance, cfg.Process.Instance, cfg.Sink.Instance = cfg.Common.Instance, cfg.Common.Instance, cfg.Common.Instance
	sections := reflect.ValueOf(&cfg).Elem()
	for i := range sections.NumField() {
		if role := sections.Type().Field(i).Tag.Get("role"); role != "" && !slices.Contains(roles, role) {
			continue
		}
		if v, ok := sections.Field(i).Addr().Interface().(interface{ Validate() error }); ok {
			for _, err := range each(v.Validate()) {
				// Two roles may share a variable.
				if !slices.ContainsFunc(problems, func(p error) bool { return p.Error() == err.Error() }) {
					problems = append(problems, err)
				}
			}
		}
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("the configuration is wrong:\n%w\n`counterfoil config` lists all settings with their meaning", errors.Join(problems...))
	}
	return &cfg, nil
}

// dropUnreadable names the variables whose text is not of the setting's type, and takes them out of values, so that what else is wrong can be
// named as well. Each is read alone, because the errors of env name the Go field and not the variable.
func dropUnreadable(values map[string]string) []error {
	var problems []error
	sections := reflect.ValueOf(Config{})
	for i := range sections.NumField() {
		for _, s := range settings(sections.Field(i), values) {
			text, set := values[s.name]
			if !set {
				continue
			}
			_, err := env.ParseAsWithOptions[Config](env.Options{Environment: map[string]string{s.name: text}})
			var parse env.ParseError
			switch {
			case err == nil:
			case errors.As(err, &parse):
				problems = append(problems, fmt.Errorf("%s is %q: %w", s.name, s.value, parse.Err))
				delete(values, s.name)
			default:
				problems = append(problems, fmt.Errorf("%s is %q: %w", s.name, s.value, err))
				delete(values, s.name)
			}
		}
	}
	return problems
}

// setting is one environment variable of the listing.
type setting struct{ name, value, fallback, desc string }

// settings lists the variables of a section, in the order of its fields.
func settings(section reflect.Value, values map[string]string) []setting {
	var all []setting
	for i := range section.NumField() {
		f := section.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		if name == "" {
			if f.Type.Kind() == reflect.Struct {
				all = append(all, settings(section.Field(i), values)...)
			}
			continue
		}
		value := values[name]
		if f.Tag.Get("secret") == "true" && value != "" {
			value = "(set)"
		}
		all = append(all, setting{name, value, f.Tag.Get("envDefault"), f.Tag.Get("desc")})
	}
	return all
}

func configCommand() *command {
	return &command{
		name:    "config",
		summary: "list all settings with their meaning, default and present value, and check them",
		help: `Lists every environment variable that Counterfoil reads: its meaning, its default, and the value that is set now (secrets are not shown).
Then the configuration is checked as a role would at its start, and every problem is named; the exit code is 1 if there is one.

Example:
  KAFKA_BROKERS=kafka-1:9092,kafka-2:9092 counterfoil config`,
		flags: func(*flag.FlagSet) {},
		run: func(_ context.Context, app *app, args []string) error {
			if len(args) > 0 {
				return badUsage("config takes no argument %q", args[0])
			}
			values := env.ToMap(app.environ)
			sections := reflect.ValueOf(Config{})
			seen := map[string]bool{}
			for i := range sections.NumField() {
				fmt.Fprintf(app.stdout, "%s\n", sections.Type().Field(i).Tag.Get("section"))
				w := tabwriter.NewWriter(app.stdout, 0, 0, 2, ' ', 0)
				for _, s := range settings(sections.Field(i), values) {
					if seen[s.name] {
						continue
					}
					seen[s.name] = true
					fallback := ""
					if s.fallback != "" {
						fallback = " (default " + s.fallback + ")"
					}
					fmt.Fprintf(w, "  %s\t%s%s\n", s.name, s.desc, fallback)
					if s.value != "" {
						fmt.Fprintf(w, "  \t  = %s\n", s.value)
					}
				}
				if err := w.Flush(); err != nil {
					return err
				}
				fmt.Fprintln(app.stdout)
			}
			if _, err := loadConfig(app.environ, "ingest", "process", "sink"); err != nil {
				return err
			}
			fmt.Fprintln(app.stdout, "The configuration is valid.")
			return nil
		},
	}
}
