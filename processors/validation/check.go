package validation

import (
	"fmt"
	"math"
	"strings"

	"github.com/counterfoil/counterfoil/processors/internal/defects"
	"github.com/counterfoil/counterfoil/schemas"
)

// The only network that the contract knows, and the only thing to be done there. Compared exactly.
const (
	facebook = "FACEBOOK"
	like     = "LIKE"
)

// CheckEvent returns all defects of a customer event that can be seen without knowing anything else; nil when [DecideEvent] may have it.
func CheckEvent(e *schemas.CustomerEvent) []schemas.Reason {
	var c checker
	c.kind(e.Kind)
	c.customer(e)
	c.common(&e.EventCommon, e.Kind == schemas.EventAchievement || e.Kind == schemas.EventFinancialAchievement || e.Kind == schemas.EventFinancialStatement)
	c.eventText(e)
	c.numbers(e)
	switch e.Kind {
	case schemas.EventPurchase:
		c.purchase(e)
	case schemas.EventSocialMedia:
		c.exactly("social_media", e.SocialMedia, facebook)
		c.mandatoryText("profile", e.Profile)
		c.exactly("action", e.Action, like)
	case schemas.EventWeb:
		c.mandatoryText("website", e.Website)
	case schemas.EventFinancialAchievement:
		c.paymentMedium(e)
		if e.Product != nil {
			c.identifier("product", ofProduct(e.Product))
		}
	case schemas.EventFinancialStatement:
		c.statement(e)
	}
	return c.Reasons()
}

// CheckReferral returns all defects of a referral that can be seen without knowing anything else; nil when [DecideReferral] may have it.
func CheckReferral(r *schemas.Referral) []schemas.Reason {
	var c checker
	c.mandatoryParticipant("referred", r.Referred)
	c.mandatoryParticipant("referred_by", r.ReferredBy)
	c.common(&r.EventCommon, false)
	return c.Reasons()
}

// checker collects the defects of one item.
type checker struct{ defects.List }

func (c *checker) kind(kind string) {
	switch kind {
	case schemas.EventAchievement, schemas.EventPurchase, schemas.EventSocialMedia, schemas.EventWeb, schemas.EventFinancialAchievement,
		schemas.EventFinancialStatement:
	case "":
		c.Missing("kind")
	case schemas.EventReferral:
		c.Add(schemas.CodeInvalid, "kind", defects.Value(kind), `is "referral"; referrals have a topic of their own, referrals.`)
	default:
		c.Add(schemas.CodeInvalid, "kind", defects.Value(kind), fmt.Sprintf("is %s; it must be achievement, purchase, social_media, web, "+
			"financial_achievement or financial_statement.", defects.Quote(kind)))
	}
}

// customer checks who the event is about: exactly one of account and participant.
func (c *checker) customer(e *schemas.CustomerEvent) {
	switch {
	case e.Account == nil && e.Participant == nil:
		c.Add(schemas.CodeMissing, "account", nil, "is missing, and so is participant; exactly one of the two must be given.")
	case e.Account != nil && e.Participant != nil:
		c.Add(schemas.CodeMultipleIdentifiers, "account", nil, "is given beside participant; exactly one of the two must be given.")
	}
	if e.Account != nil {
		c.identifier("account", ofAccount(e.Account))
	}
	if e.Participant != nil {
		c.identifier("participant", ofParticipant(e.Participant))
	}
}

// common checks what customer events and referrals share.
func (c *checker) common(e *schemas.EventCommon, classified bool) {
	if e.Classification != nil {
		c.identifier("classification", ofNamed(e.Classification))
	} else if classified {
		c.Missing("classification")
	}
	c.mandatoryNamed("unit", e.Unit)
	if e.PerformedOn == nil {
		c.Missing("performed_on")
	}
	c.Instant("performed_on", e.PerformedOn)
	c.Text("description", e.Description)
	c.Text("external_system", e.ExternalSystem)
	c.Text("external_system_reference_number", e.ExternalSystemReferenceNumber)
	c.Text("udf_string_1", e.UDFString1)
	c.Text("udf_string_2", e.UDFString2)
	c.Text("udf_string_3", e.UDFString3)
	c.Text("udf_string_4", e.UDFString4)
	c.Text("udf_string_5", e.UDFString5)
	c.Text("udf_string_6", e.UDFString6)
	c.Text("udf_string_7", e.UDFString7)
	c.Text("udf_string_8", e.UDFString8)
	c.float("udf_float_1", e.UDFFloat1)
	c.float("udf_float_2", e.UDFFloat2)
	c.float("udf_float_3", e.UDFFloat3)
	c.float("udf_float_4", e.UDFFloat4)
	c.Instant("udf_date_1", e.UDFDate1)
	c.Instant("udf_date_2", e.UDFDate2)
	c.Instant("udf_date_3", e.UDFDate3)
	c.Instant("udf_date_4", e.UDFDate4)
}

// eventText checks the texts of a customer event, whichever kinds they belong to.
func (c *checker) eventText(e *schemas.CustomerEvent) {
	c.Text("udf_string_9", e.UDFString9)
	c.Text("udf_string_10", e.UDFString10)
	c.Text("udf_string_11", e.UDFString11)
	c.Text("udf_string_12", e.UDFString12)
	c.Text("udf_string_13", e.UDFString13)
	c.Text("udf_string_14", e.UDFString14)
	c.Text("udf_string_15", e.UDFString15)
	c.Text("udf_string_16", e.UDFString16)
	c.Text("reference_number", e.ReferenceNumber)
	c.Text("payment_medium", e.PaymentMedium)
	c.Text("social_media", e.SocialMedia)
	c.Text("profile", e.Profile)
	c.Text("action", e.Action)
	c.Text("website", e.Website)
}

// numbers checks the decimals of a customer event, whichever kinds they belong to. Avro's decimal has no bound of its own.
func (c *checker) numbers(e *schemas.CustomerEvent) {
	c.Decimal("amount", e.Amount)
	if e.Products != nil {
		for i := range *e.Products {
			line := &(*e.Products)[i]
			c.In("products", i)
			c.Decimal("quantity", line.Quantity)
			c.Decimal("net_amount", line.NetAmount)
			c.Decimal("vat_amount", line.VATAmount)
			c.Decimal("total_amount", line.TotalAmount)
		}
	}
	if e.Measures != nil {
		for i := range *e.Measures {
			c.In("measures", i)
			c.Decimal("value", (*e.Measures)[i].Value)
		}
	}
	c.Out()
}

func (c *checker) purchase(e *schemas.CustomerEvent) {
	c.mandatoryText("reference_number", e.ReferenceNumber)
	c.paymentMedium(e)
	if e.Invoice != nil {
		c.identifier("invoice", ofInvoice(e.Invoice))
	}
	if e.IntendedCurrency != nil {
		c.identifier("intended_currency", ofCurrency(e.IntendedCurrency))
	}
	switch {
	case e.Products == nil:
		c.Missing("products")
		return
	case len(*e.Products) == 0:
		c.Add(schemas.CodeMissing, "products", nil, "is empty; a purchase has at least one line.")
	}
	for i := range *e.Products {
		line := &(*e.Products)[i]
		c.In("products", i)
		c.mandatoryProduct(line.Product)
		c.mandatoryDecimal("net_amount", line.NetAmount)
		c.mandatoryDecimal("vat_amount", line.VATAmount)
		c.mandatoryDecimal("total_amount", line.TotalAmount)
	}
	c.Out()
}

func (c *checker) statement(e *schemas.CustomerEvent) {
	if e.Measures == nil {
		return
	}
	for i := range *e.Measures {
		m := &(*e.Measures)[i]
		c.In("measures", i)
		c.mandatoryNamed("kpi", m.KPI)
		c.mandatoryDecimal("value", m.Value)
		if m.Product != nil {
			c.identifier("product", ofProduct(m.Product))
		}
	}
	c.Out()
}

func (c *checker) paymentMedium(e *schemas.CustomerEvent) {
	if e.PaymentMediumType != nil {
		c.identifier("payment_medium_type", ofNamed(e.PaymentMediumType))
	}
	if e.PaymentMediumBrand != nil {
		c.identifier("payment_medium_brand", ofNamed(e.PaymentMediumBrand))
	}
}

// identifier checks that exactly one member is given, and that it can name something.
func (c *checker) identifier(field string, m members) {
	_, value, ok := m.sole()
	switch {
	case ok && strings.TrimSpace(value) == "":
		c.Add(schemas.CodeMissing, field, nil, "is blank.")
	case ok:
		c.Short(field, &value)
	default:
		c.notOne(field, m)
	}
}

// notOne says what is wrong with an identifier that does not have exactly one member.
func (c *checker) notOne(field string, m members) {
	var allowed, given []string
	for _, member := range m {
		if member.name != "" {
			allowed = append(allowed, member.name)
		}
		if member.value != nil {
			given = append(given, member.name)
		}
	}
	if len(given) == 0 {
		c.Add(schemas.CodeMissing, field, nil, "names nothing; exactly one of "+strings.Join(allowed, ", ")+" must be given.")
		return
	}
	members := strings.Join(given, ",")
	c.Add(schemas.CodeMultipleIdentifiers, field, &members, "is given by "+strings.Join(given, " and ")+"; exactly one of "+strings.Join(allowed, ", ")+" must be given.")
}

func (c *checker) mandatoryNamed(field string, i *schemas.Identifier) {
	if i == nil {
		c.Missing(field)
		return
	}
	c.identifier(field, ofNamed(i))
}

func (c *checker) mandatoryProduct(i *schemas.ProductIdentifier) {
	if i == nil {
		c.Missing("product")
		return
	}
	c.identifier("product", ofProduct(i))
}

func (c *checker) mandatoryParticipant(field string, i *schemas.ParticipantIdentifier) {
	if i == nil {
		c.Missing(field)
		return
	}
	c.identifier(field, ofParticipant(i))
}

func (c *checker) mandatoryDecimal(field string, d *schemas.Decimal) {
	if d == nil {
		c.Missing(field)
	}
}

func (c *checker) mandatoryText(field string, s *string) {
	switch {
	case s == nil || *s == "":
		c.Missing(field)
	case strings.TrimSpace(*s) == "":
		c.Add(schemas.CodeMissing, field, nil, "is blank.")
	}
}

// exactly checks a mandatory text that has one allowed value.
func (c *checker) exactly(field string, s *string, want string) {
	switch {
	case s == nil || strings.TrimSpace(*s) == "":
		c.mandatoryText(field, s)
	case *s != want:
		c.Add(schemas.CodeInvalid, field, defects.Value(*s), "is "+defects.Quote(*s)+"; it must be "+want+", in these letters.")
	}
}

// float refuses what JSON cannot write.
func (c *checker) float(field string, f *float64) {
	if f != nil && (math.IsNaN(*f) || math.IsInf(*f, 0)) {
		c.Add(schemas.CodeInvalid, field, nil, "is not a finite number.")
	}
}
