package crmcom

import "github.com/counterfoil/counterfoil/schemas"

// MaxRows is how many rows a call may have.
const MaxRows = 1000

// kind is one of the bulk methods.
type kind struct {
	path     string   // in customer_events/bulk/<path>/create
	sets     []string // names of the member with the rows, the preferred one first
	topic    string   // kind of batch
	event    string   // kind of customer event
	is       kinds
	currency bool // the call may carry intended_currency_identifier
}

// kinds is a set of kinds of events: which of them know a member.
type kinds uint8

const (
	achievement kinds = 1 << iota
	purchase
	referral
	socialMedia
	web
	financialAchievement
	financialStatement

	every       = achievement | purchase | referral | socialMedia | web | financialAchievement | financialStatement
	notReferral = every &^ referral
)

// The page of financial_statements names its set as that of financial_achievements, a slip that later versions of the page correct: both
// names are taken there.
var methods = []kind{
	{path: "achievements", sets: []string{"achievement_customer_events_set"}, topic: schemas.KindCustomerEvents, event: schemas.EventAchievement, is: achievement},
	{path: "purchases", sets: []string{"purchase_customer_events_set"}, topic: schemas.KindCustomerEvents, event: schemas.EventPurchase, is: purchase, currency: true},
	{path: "referrals", sets: []string{"referral_customer_events_set"}, topic: schemas.KindReferrals, event: schemas.EventReferral, is: referral},
	{path: "social_media", sets: []string{"social_media_customer_events_set"}, topic: schemas.KindCustomerEvents, event: schemas.EventSocialMedia, is: socialMedia},
	{path: "web", sets: []string{"web_customer_events_set"}, topic: schemas.KindCustomerEvents, event: schemas.EventWeb, is: web},
	{path: "financial_achievements", sets: []string{"financial_achievement_customer_events_set"}, topic: schemas.KindCustomerEvents, event: schemas.EventFinancialAchievement, is: financialAchievement},
	{path: "financial_statements", sets: []string{"financial_statement_customer_events_set", "financial_achievement_customer_events_set"}, topic: schemas.KindCustomerEvents, event: schemas.EventFinancialStatement, is: financialStatement},
}
