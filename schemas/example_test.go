package schemas_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/counterfoil/counterfoil/schemas"
)

// An upstream system hands in a customer event: the record, its tenant, and nothing else. With a header ref the outcome carries the
// system's own reference; it comes on customer_events.processed or customer_events.unprocessed, which counterfoil tail prints.
func Example_upstreamProducer() {
	brokers, registryURL, stop := prepared()
	defer stop()
	ctx := context.Background()

	registry, err := schemas.NewRegistry(schemas.RegistryConfig{URL: []string{registryURL}}, slog.Default())
	if err != nil {
		log.Fatal(err)
	}
	events, err := registry.Encoder(ctx, schemas.KindCustomerEvents)
	if err != nil {
		log.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	account, unit, website, at := "ACR0000000020", "Admin Unit", "www.crm.com", time.Date(2016, 6, 22, 15, 0, 0, 0, time.UTC)
	event := schemas.CustomerEvent{
		Kind:    schemas.EventWeb,
		Account: &schemas.AccountIdentifier{Number: &account},
		Website: &website,
	}
	event.Unit, event.PerformedOn = &schemas.Identifier{Name: &unit}, &at

	value, err := events.Append(nil, &event)
	if err != nil {
		log.Fatal(err)
	}
	record := &kgo.Record{Topic: schemas.KindCustomerEvents, Value: value, Headers: []kgo.RecordHeader{
		{Key: schemas.HeaderTenant, Value: []byte("demo")},
		{Key: schemas.HeaderRef, Value: []byte("A-1")},
	}}
	if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("produced to", record.Topic)
	// Output: produced to customer_events
}

// prepared is a Kafka and a registry as counterfoil migrate leaves them.
func prepared() (brokers []string, registryURL string, stop func()) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, schemas.KindCustomerEvents))
	if err != nil {
		log.Fatal(err)
	}
	fake := srfake.New()
	registry, err := schemas.NewRegistry(schemas.RegistryConfig{URL: []string{fake.URL()}}, slog.New(slog.DiscardHandler))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := registry.Register(context.Background(), false); err != nil {
		log.Fatal(err)
	}
	return cluster.ListenAddrs(), fake.URL(), func() { cluster.Close(); fake.Close() }
}
