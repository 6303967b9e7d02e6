package schemas

import "slices"

// Role says what a topic is for.
type Role uint8

// Roles of topics.
const (
	RoleBatches     Role = iota + 1 // headers of accepted batches; one partition, so that numbers grow in the order of acceptance
	RoleItem                        // items to be judged
	RoleProcessed                   // outcomes
	RoleUnprocessed                 // outcomes
	RoleState                       // changelog of a processor's state
	RoleReference                   // compacted, one partition, whole in every instance
	RoleFact                        // what upstream systems report, for ClickHouse
	RoleRequests                    // records of requests with an idempotency key, on their way to where they belong
	RoleAnswers                     // what became of such requests
	RoleDeadLetters                 // records that could not be read
)

// Topics that are not named after a kind.
const (
	Batches     = "batches"
	DeadLetters = "dead_letters"
	// References is the kind of what came through the API for reference and fact topics. It has result topics and no item topic: such
	// records are judged at the door.
	References     = "references"
	Requests       = "requests"
	RequestAnswers = "requests.answers"
	// Attempts is the changelog of what the engine remembers of replayed items, of all kinds; its partitions are those of the item topics.
	Attempts = "attempts"
)

// Consumer groups. Who commits their first offsets, who waits for them and who is in them must mean the same ones.
const (
	GroupUpserts    = "counterfoil-upserts"    // judges ownership
	GroupValidation = "counterfoil-validation" // judges customer events, referrals and transactions
	GroupMatching   = "counterfoil-matching"   // judges sales
	GroupRequests   = "counterfoil-requests"   // passes requests with an idempotency key on, once
	GroupSink       = "counterfoil-sink"       // ClickHouse has everything below its committed offsets
)

// Size limits of records, in bytes.
const (
	MaxItemBytes    = 1 << 20 // of an item, encoded; larger ones are refused at the door
	maxInboundBytes = MaxItemBytes + 64<<10
	maxOwnBytes     = 4 << 20 // of what we write: an outcome carries its item
)

// Topic is one row of the table of topics.
type Topic struct {
	Name       string
	Kind       string // the kind it belongs to, if any
	Role       Role
	Schema     *Schema // of the value; nil where values have many, as in requests
	Partitions int     // 0: as chosen at the first migrate (TOPIC_PARTITIONS)
	Config     map[string]string
}

// ProcessedTopic is the topic of a kind's processed outcomes.
func ProcessedTopic(kind string) string { return kind + ".processed" }

// UnprocessedTopic is the topic of a kind's unprocessed outcomes.
func UnprocessedTopic(kind string) string { return kind + ".unprocessed" }

// StateTopic is the changelog of a kind's state.
func StateTopic(kind string) string { return kind + ".state" }

// Subject is the registry's subject of a topic's values.
func Subject(topic string) string { return topic + "-value" }

// Inbound topics are stamped by the broker, so that the record's timestamp is its acceptance whatever the producer's clock says. Nothing
// is deleted by age: what is pending must not expire unseen, and operators who want retention set it on the topic.
var (
	inbound = map[string]string{
		"message.timestamp.type": "LogAppendTime",
		"max.message.bytes":      "1114112", // maxInboundBytes
		"retention.ms":           "-1",
	}
	written = map[string]string{
		"max.message.bytes": "4194304", // maxOwnBytes
		"retention.ms":      "-1",
	}
	compacted = map[string]string{
		"cleanup.policy":    "compact",
		"max.message.bytes": "4194304",
	}
	// Records of references come from upstream systems, as items do. Whoever was off for four weeks, where Kafka's default is a day, still sees
	// what was deleted meanwhile.
	referenced = map[string]string{
		"cleanup.policy":         "compact",
		"delete.retention.ms":    "2419200000",
		"message.timestamp.type": "LogAppendTime",
		"max.message.bytes":      "1114112",
	}
)

var topics = buildTopics()

func buildTopics() []Topic {
	var all []Topic
	kind := func(name string, item, processed, state *Schema) {
		all = append(all,
			Topic{Name: name, Kind: name, Role: RoleItem, Schema: item, Config: inbound},
			Topic{Name: ProcessedTopic(name), Kind: name, Role: RoleProcessed, Schema: processed, Config: written},
			Topic{Name: UnprocessedTopic(name), Kind: name, Role: RoleUnprocessed, Schema: UnprocessedSchema, Config: written})
		if state != nil {
			all = append(all, Topic{Name: StateTopic(name), Kind: name, Role: RoleState, Schema: state, Config: compacted})
		}
	}
	fact := func(name string, schema *Schema) {
		all = append(all, Topic{Name: name, Role: RoleFact, Schema: schema, Config: inbound})
	}
	reference := func(name string, schema *Schema) {
		all = append(all, Topic{Name: name, Role: RoleReference, Schema: schema, Partitions: 1, Config: referenced})
	}
	all = append(all, Topic{Name: Batches, Role: RoleBatches, Schema: BatchHeaderSchema, Partitions: 1, Config: written})
	kind(KindOwnership, OwnershipSchema, OwnershipProcessedSchema, OwnershipStateSchema)
	kind(KindCustomerEvents, CustomerEventSchema, EventProcessedSchema, nil)
	kind(KindReferrals, ReferralSchema, ReferralProcessedSchema, ReferralStateSchema)
	kind(KindSales, SaleSchema, SaleProcessedSchema, nil)
	kind(KindTransactions, TransactionSchema, TransactionProcessedSchema, nil)
	fact(Calls, CallSchema)
	fact(OrderLines, OrderLineSchema)
	fact(InvoiceLines, InvoiceLineSchema)
	fact(StockLevels, StockSchema)
	reference(Accounts, AccountSchema)
	reference(Participants, ParticipantSchema)
	reference(Units, UnitSchema)
	reference(Classifications, ClassificationSchema)
	reference(Products, ProductSchema)
	reference(PaymentMediumTypes, PaymentMediumTypeSchema)
	reference(PaymentMediumBrands, PaymentMediumBrandSchema)
	reference(KPIs, KPISchema)
	reference(Invoices, InvoiceSchema)
	reference(Customers, CustomerSchema)
	reference(CustomerParts, CustomerPartSchema)
	reference(APIKeys, APIKeySchema)
	all = append(all,
		Topic{Name: ProcessedTopic(References), Kind: References, Role: RoleProcessed, Schema: ReferenceProcessedSchema, Config: written},
		Topic{Name: UnprocessedTopic(References), Kind: References, Role: RoleUnprocessed, Schema: UnprocessedSchema, Config: written},
		// The values are those of the topics that they are on their way to; what is remembered of a request is in the changelog.
		Topic{Name: Requests, Role: RoleRequests, Config: inbound},
		Topic{Name: StateTopic(Requests), Kind: Requests, Role: RoleState, Schema: RequestSchema, Config: compacted},
		Topic{Name: RequestAnswers, Role: RoleAnswers, Schema: RequestAnswerSchema, Config: written},
		Topic{Name: Attempts, Role: RoleState, Schema: AttemptSchema, Config: compacted})
	return append(all, Topic{Name: DeadLetters, Role: RoleDeadLetters, Schema: DeadLetterSchema, Config: written})
}

// Topics is the table of all topics, in the order in which they are created.
func Topics() []Topic { return slices.Clone(topics) }

// TopicNames are the names of the topics with one of the roles, of all topics where none is given.
func TopicNames(roles ...Role) []string {
	var names []string
	for _, t := range topics {
		if len(roles) == 0 || slices.Contains(roles, t.Role) {
			names = append(names, t.Name)
		}
	}
	return names
}

// TopicNamed finds a topic by its name.
func TopicNamed(name string) (Topic, bool) {
	i := slices.IndexFunc(topics, func(t Topic) bool { return t.Name == name })
	if i < 0 {
		return Topic{}, false
	}
	return topics[i], true
}

// Epoch is a life of a topic.
type Epoch struct {
	// Number is 0 for the first, one more each time that a topic of that name was created anew.
	Number int32
	// Base is what the numbers that callers get by positions in the topic begin after, so that they go on growing in its next life: see
	// [Epochs.BatchNumber] and [Epochs.ItemNumber]. 0 in the first.
	Base int64
}

// Epochs are the present lives of topics, as `counterfoil migrate` and `counterfoil adopt` record them. Positions in every table are (epoch,
// topic, partition, offset).
type Epochs map[string]Epoch

// Of is the number of a topic's epoch.
func (e Epochs) Of(topic string) int32 { return e[topic].Number }

// BatchNumber is the number of the batch whose header lies at offset in the topic batches. It is never 0.
func (e Epochs) BatchNumber(offset int64) int64 { return e[Batches].Base + BatchNumber(offset) }

// BatchOffset is where the header of a batch with that number lies in the topic batches; it is negative for one of an earlier life of it.
func (e Epochs) BatchOffset(number int64) int64 { return number - e[Batches].Base - BatchNumber(0) }

// ItemNumber is the number that a CRM.COM event gets by its place in its topic, which has that many partitions: unique in the topic, in all of
// its lives, and rising with the offset in a partition.
func (e Epochs) ItemNumber(topic string, partition int32, offset int64, partitions int32) int64 {
	return e[topic].Base + Number(partition, offset, partitions)
}
