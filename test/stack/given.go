package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/counterfoil/counterfoil/schemas"
)

// Servers that are there already, named by the product's own settings. Tests make a database each, with a random name, and drop it. Topics,
// groups and subjects have the product's fixed names: so tests on one broker must run one after the other (go test -p 1), and each process of
// tests refuses servers that have any of them already, which may be somebody's installation; what it then finds it has made itself, and deletes.
//
// Kafka and the registry are reached without TLS and credentials. What such a test cannot do is to kill, stop and restart the servers.
const (
	envKafka      = "KAFKA_BROKERS"
	envRegistry   = "SCHEMA_REGISTRY_URL"
	envClickHouse = "CLICKHOUSE_ADDR"
	// ClickHouse's HTTP interface, which only the tests use: by default port 8123, or 8443 with TLS, of the first host.
	envHTTP     = "CLICKHOUSE_HTTP_ADDR"
	envUser     = "CLICKHOUSE_USER"
	envPassword = "CLICKHOUSE_PASSWORD"
	envTLS      = "CLICKHOUSE_TLS"
	envCAFile   = "CLICKHOUSE_TLS_CA_FILE"
	envCluster  = "CLICKHOUSE_CLUSTER"
	envNodePort = "CLICKHOUSE_NODE_PORT"
)

// given is what the process has seen to be empty before it made anything.
type given struct{ kafka, registry bool }

// GivenKafka reports whether the broker is one that the tests have not started: they can neither kill nor stop it.
func GivenKafka() bool { return os.Getenv(envKafka) != "" }

// GivenRegistry reports the same of the registry.
func GivenRegistry() bool { return os.Getenv(envRegistry) != "" }

// GivenClickHouse reports the same of ClickHouse.
func GivenClickHouse() bool { return os.Getenv(envClickHouse) != "" }

const cleanUp = time.Minute

// givenKafka is the broker at the given addresses. The first call refuses one that is in use.
func givenKafka(t testing.TB) *Broker {
	t.Helper()
	b := &Broker{Addrs: strings.Split(os.Getenv(envKafka), ",")}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.given.kafka {
		return b
	}
	found, err := b.ours(t.Context())
	if err != nil {
		t.Fatalf("%s=%s: %v", envKafka, os.Getenv(envKafka), err)
	}
	if len(found) > 0 {
		t.Fatalf("%s=%s has topics or groups of the product already: %s. The tests make and delete those, so they need a broker that nobody uses, "+
			"and it one package of tests at a time (go test -p 1). If a run that was cut off has left them, delete them.", envKafka, os.Getenv(envKafka), few(found))
	}
	shared.given.kafka = true
	shared.ends = append(shared.ends, func() {
		if err := b.deleteOurs(); err != nil {
			fmt.Fprintf(os.Stderr, "topics and groups of the tests stay behind on %s: %v\n", os.Getenv(envKafka), err)
		}
	})
	return b
}

// few names some of many.
func few(names []string) string {
	const most = 5
	text := strings.Join(names[:min(most, len(names))], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// empty deletes topics and groups of the product.
func (b *Broker) empty(t testing.TB) {
	t.Helper()
	if err := b.deleteOurs(); err != nil {
		t.Errorf("empty the broker: %v", err)
	}
}

// ours are the topics and groups of the product that the broker has.
func (b *Broker) ours(ctx context.Context) (names []string, err error) {
	err = b.admin(func(adm *kadm.Client) error {
		topics, groups, err := topicsAndGroups(ctx, adm)
		names = append(topics, groups...)
		return err
	})
	return names, err
}

func (b *Broker) admin(f func(*kadm.Client) error) error {
	client, err := kgo.NewClient(b.Opts()...)
	if err != nil {
		return err
	}
	defer client.Close()
	return f(kadm.NewClient(client))
}

// topicsAndGroups are those of the product.
func topicsAndGroups(ctx context.Context, adm *kadm.Client) (topics, groups []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	details, err := adm.ListTopics(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list topics: %w", err)
	}
	for _, t := range schemas.Topics() {
		if details.Has(t.Name) {
			topics = append(topics, t.Name)
		}
	}
	listed, err := adm.ListGroups(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list groups: %w", err)
	}
	for _, g := range listed.Groups() {
		if strings.HasPrefix(g, "counterfoil-") {
			groups = append(groups, g)
		}
	}
	return topics, groups, nil
}

// deleteOurs deletes until nothing is left: members of a group that was killed are in it until their session ends.
func (b *Broker) deleteOurs() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUp)
	defer cancel()
	return b.admin(func(adm *kadm.Client) error {
		for {
			topics, groups, err := topicsAndGroups(ctx, adm)
			if err == nil && len(topics)+len(groups) == 0 {
				return nil
			}
			if len(topics) > 0 {
				_, derr := adm.DeleteTopics(ctx, topics...)
				err = errors.Join(err, derr)
			}
			if len(groups) > 0 {
				deleted, derr := adm.DeleteGroups(ctx, groups...)
				err = errors.Join(err, derr)
				for _, g := range deleted.Sorted() {
					if g.Err != nil && !errors.Is(g.Err, kerr.GroupIDNotFound) {
						err = errors.Join(err, fmt.Errorf("group %s: %w", g.Group, g.Err))
					}
				}
			}
			select {
			case <-ctx.Done():
				return errors.Join(fmt.Errorf("%v are still there", append(topics, groups...)), err)
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

// givenRegistry is the registry at the given URL, without subjects of the product, also at the test's end. The first call refuses one that is in
// use.
func givenRegistry(t testing.TB, url string) string {
	t.Helper()
	client, err := sr.NewClient(sr.URLs(strings.Split(url, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	found, err := ourSubjects(t.Context(), client)
	if err != nil {
		t.Fatalf("%s=%s: %v", envRegistry, url, err)
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if len(found) > 0 && !shared.given.registry {
		t.Fatalf("%s=%s has subjects of the product already: %s. The tests make and delete those, so they need a registry that nobody uses. "+
			"If a run that was cut off has left them, delete them.", envRegistry, url, few(found))
	}
	shared.given.registry = true
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanUp)
		defer cancel()
		found, err := ourSubjects(ctx, client)
		for _, s := range found {
			_, soft := client.DeleteSubject(ctx, s, sr.SoftDelete) // fails where only that has been done
			_, hard := client.DeleteSubject(ctx, s, sr.HardDelete)
			if hard != nil {
				err = errors.Join(err, soft, hard)
			}
		}
		if err != nil {
			t.Errorf("empty the registry: %v", err)
		}
	})
	return url
}

// ourSubjects are the subjects of the product that the registry has.
func ourSubjects(ctx context.Context, client *sr.Client) ([]string, error) {
	ctx, cancel := context.WithTimeout(sr.WithParams(ctx, sr.ShowDeleted), 10*time.Second)
	defer cancel()
	all, err := client.Subjects(ctx)
	if err != nil {
		return nil, fmt.Errorf("list subjects: %w", err)
	}
	return slices.DeleteFunc(all, func(s string) bool {
		topic, ok := strings.CutSuffix(s, "-value")
		_, known := schemas.TopicNamed(topic)
		return !ok || !known
	}), nil
}

// givenClickHouse is the server, or the cluster, at the given addresses.
func givenClickHouse(addrs string) (*CH, error) {
	first, _, _ := strings.Cut(addrs, ",")
	c := &CH{
		Addr: addrs, HTTPAddr: os.Getenv(envHTTP), User: os.Getenv(envUser), Password: os.Getenv(envPassword), TLS: os.Getenv(envTLS) == "true",
		CAFile: os.Getenv(envCAFile), Cluster: os.Getenv(envCluster), NodePort: os.Getenv(envNodePort),
	}
	if c.User == "" {
		c.User = "default"
	}
	if c.HTTPAddr == "" {
		host, _, err := net.SplitHostPort(first)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", envClickHouse, err)
		}
		c.HTTPAddr = net.JoinHostPort(host, map[bool]string{false: "8123", true: "8443"}[c.TLS])
	}
	return c, nil
}
