package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// KafkaConfig says how to reach Kafka.
type KafkaConfig struct {
	Brokers  []string `env:"KAFKA_BROKERS" envSeparator:"," envDefault:"127.0.0.1:9092" desc:"bootstrap addresses, comma separated"`
	TLS      bool     `env:"KAFKA_TLS" desc:"talk TLS to the brokers"`
	CA       string   `env:"KAFKA_TLS_CA" desc:"file with the certificates that the brokers' are checked against; the system's when empty"`
	Cert     string   `env:"KAFKA_TLS_CERT" desc:"file with our client certificate, where the brokers want one"`
	Key      string   `env:"KAFKA_TLS_KEY" desc:"file with the key of our client certificate"`
	SASL     string   `env:"KAFKA_SASL_MECHANISM" desc:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty: none"`
	User     string   `env:"KAFKA_SASL_USER" desc:"SASL user"`
	Password string   `env:"KAFKA_SASL_PASSWORD" secret:"true" desc:"SASL password"`
}

// Validate names every problem.
func (c *KafkaConfig) Validate() error {
	_, err := c.Opts()
	return err
}

// Opts are the options that every Kafka client of ours starts from. The error names every setting that is wrong.
func (c KafkaConfig) Opts() ([]kgo.Opt, error) {
	var problems []error
	opts := []kgo.Opt{kgo.SeedBrokers(c.Brokers...), kgo.ClientID("counterfoil")}
	if len(c.Brokers) == 0 {
		problems = append(problems, errors.New("KAFKA_BROKERS is empty: set it to the address of at least one broker"))
	}
	if c.TLS {
		t, err := c.tls()
		if err != nil {
			problems = append(problems, err)
		}
		opts = append(opts, kgo.DialTLSConfig(t))
	} else if c.CA != "" || c.Cert != "" || c.Key != "" {
		problems = append(problems, errors.New("KAFKA_TLS_CA, KAFKA_TLS_CERT or KAFKA_TLS_KEY is set, but KAFKA_TLS is not true"))
	}
	mechanism, err := c.mechanism()
	if err != nil {
		problems = append(problems, err)
	} else if mechanism != nil {
		opts = append(opts, kgo.SASL(mechanism))
	}
	return opts, errors.Join(problems...)
}

func (c KafkaConfig) mechanism() (sasl.Mechanism, error) {
	if c.SASL == "" {
		if c.User != "" || c.Password != "" {
			return nil, errors.New("KAFKA_SASL_USER or KAFKA_SASL_PASSWORD is set, but KAFKA_SASL_MECHANISM is not")
		}
		return nil, nil
	}
	if c.User == "" || c.Password == "" {
		return nil, errors.New("KAFKA_SASL_MECHANISM needs KAFKA_SASL_USER and KAFKA_SASL_PASSWORD")
	}
	switch strings.ToUpper(c.SASL) {
	case "PLAIN":
		return plain.Auth{User: c.User, Pass: c.Password}.AsMechanism(), nil
	case "SCRAM-SHA-256":
		return scram.Auth{User: c.User, Pass: c.Password}.AsSha256Mechanism(), nil
	case "SCRAM-SHA-512":
		return scram.Auth{User: c.User, Pass: c.Password}.AsSha512Mechanism(), nil
	default:
		return nil, fmt.Errorf("KAFKA_SASL_MECHANISM is %q: use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.SASL)
	}
}

func (c KafkaConfig) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return t, fmt.Errorf("KAFKA_TLS_CA: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return t, fmt.Errorf("KAFKA_TLS_CA: %s holds no certificate in PEM form", c.CA)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return t, errors.New("KAFKA_TLS_CERT and KAFKA_TLS_KEY belong together: set both or neither")
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return t, fmt.Errorf("KAFKA_TLS_CERT or KAFKA_TLS_KEY: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// reachKafka makes a client, with extra options where a command needs some, and asks the cluster once, so that a wrong address is said at once and by name.
func reachKafka(ctx context.Context, cfg KafkaConfig, extra ...kgo.Opt) (*kgo.Client, error) {
	opts, err := cfg.Opts()
	if err != nil {
		return nil, err
	}
	opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	client, err := kgo.NewClient(append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("Kafka: %w", err)
	}
	if err := client.Ping(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("Kafka does not answer at %s: %w (is it running? KAFKA_BROKERS says where)", strings.Join(cfg.Brokers, ","), err)
	}
	return client, nil
}
