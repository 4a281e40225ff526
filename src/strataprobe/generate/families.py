"""Words of English that rules get wrong: families of derivatives, irregular verbs, and words that stand alone."""

from __future__ import annotations

# Words whose family no rule finds: each member of a family stands for all of it.
FAMILIES = (
    r"joy(?:s|ed|ing|ful|fully|fulness|ous|ously|ousness|less|ride)?|(?:en|over)joy\w*|rejoic\w+|killjoy",
    r"grate(?:ful|fully|fulness)|ungrateful\w*|ingratitude|gratitude|gratif\w+",
    r"hop(?:e|es|ed|ing|eful|efully|efulness|efuls|eless|elessly|elessness)",
    r"(?:un)?excit(?:e|es|ed|edly|ing|ingly|ement|able|ability)",
    r"(?:un|be)?lov(?:e|es|ed|er|ers|ing|ingly|ely|elier|eliest|eliness|able|eless|esick)",
    r"prou(?:d|der|dest|dly)|prid(?:e|ed|es|ing|eful)",
    r"(?:dis)?content(?:ed|edly|ment|edness)?",
    r"(?:un)?inspir(?:e|es|ed|er|ing|ingly|ation|ations|ational)",
    r"(?:un)?reliev(?:e|es|ed|ing|edly)|reliefs?",
    r"(?:dis|un|self)?satisf(?:y|ies|ied|ying|yingly|action|actions|actory|actorily)",
    r"sad(?:s|den|dens|dened|dening|der|dest|ly|ness)?",
    r"ang(?:er|ers|ered|ering|ry|rier|riest|rily)",
    r"(?:un)?afraid|fear(?:s|ed|ing|ful|fully|fulness|less|lessly|some)?",
    r"disgust\w*",
    r"(?:un)?(?:a)?sham(?:e|es|ed|ing|eful|efully|efulness|eless|elessly|efaced|efacedly)",
    r"(?:over)?anxi(?:ous|ously|ousness|ety|eties)",
    r"frustrat(?:e|es|ed|edly|ing|ingly|ion|ions)",
    r"disappoint\w*",
    r"guilt(?:y|ier|iest|ily|less|ridden)?",
    r"lonel(?:y|ier|iest|iness)|loner?s?|lonesome\w*",
    r"feel(?:s|ing|ings|ingly)?|felt",
    r"(?:un)?emotion(?:s|al|ally|less)?|emotiv\w*",
    r"sentiment(?:s|al|ally|ality)?",
    r"positiv(?:e|es|ely|ity|ism)",
    r"negativ(?:e|es|ely|ity|ism)",
    r"(?:mis)?underst(?:and|ands|anding|andings|andable|andably|ood)",
    # Acts of thinking.
    r"abstract(?:s|ed|ing|ion|ions|ly|edly)?",
    r"(?:un)?accept(?:s|ed|ing|ance|able|ably|ability)?",
    r"analog(?:y|ies|ous|ously|ical|ically|i[sz]e|i[sz]es|i[sz]ed|i[sz]ing)",
    r"(?:re|over)?analy[sz](?:e|es|ed|ing|er|ers)|analys(?:is|t|ts)|analytic(?:al|ally)?",
    r"(?:re|mis)?appl(?:y|ies|ied|ying|ication|ications|icable)",
    r"(?:re|dis|inter|un)?connect(?:s|ed|ing|ion|ions|or|ors|ive|ivity|edness)?",
    r"concreti[sz](?:e|es|ed|ing|ation)",
    r"creat(?:e|es|ed|ing|ion|ions|ive|ively|iveness|ivity|or|ors)",
    r"distinguish(?:es|ed|ing)?|(?:in)?distinguishabl[ey]|undistinguished",
    r"(?:re)?evaluat(?:e|es|ed|ing|ion|ions|ive|or|ors)",
    r"(?:un)?notic(?:e|es|ed|ing|eable|eably)",
    r"(?:un)?question(?:s|ed|ing|ingly|able|ably|er|ers)?",
    r"reconsider(?:s|ed|ing|ation|ations)?",
    r"refram(?:e|es|ed|ing|ings)",
    r"(?:mis)?remember(?:s|ed|ing)?|remembrances?",
    r"(?:meta)?cogniti(?:on|ons|ve|vely)",
    r"hypothes[ei]s|hypothesi[sz](?:e|es|ed|ing)|hypothetical(?:ly)?",
    r"perspectiv(?:e|es|al)",
    r"judge?ments?",
    # Emotions and attitudes.
    r"jealous(?:y|ies|ly)?",
    r"env(?:y|ies|ied|ying|ious|iously|iable|iably)|unenviable",
    r"(?:in)?curio(?:us|usly|sity|sities)",
    r"nostalgi(?:a|c|cally)",
    r"(?:un)?certain(?:ly|ty|ties)?",
    r"(?:dis|mis)?trust(?:s|ed|ing|ingly|ful|fully|worthy|worthiness)?|(?:un|en)trust(?:s|ed|ing|worthy)",
    r"bor(?:ed|edom|ing|ingly)",
    r"grie(?:f|fs|ve|ves|ved|ving|vous|vously)",
    r"despair(?:s|ed|ing|ingly)?|desperat(?:e|ely|ion)",
    r"aw(?:e|ed|es|ing|esome|estruck)|overawed?",
    r"(?:un)?surpris(?:e|es|ed|edly|ing|ingly)",
    r"(?:un)?confus(?:e|es|ed|edly|ing|ingly|ion|ions)",
    r"hostil(?:e|ely|ity|ities)",
    r"amaz(?:e|es|ed|ing|ingly|ement)",
    r"(?:un)?amus(?:e|es|ed|edly|ing|ingly|ement|ements)",
    r"annoy(?:s|ed|ing|ingly|ance|ances)?",
    r"admir(?:e|es|ed|ing|ingly|ation|er|ers|able|ably)",
    r"(?:un)?embarrass(?:es|ed|ing|ingly|ment|ments)?",
    r"humiliat(?:e|es|ed|ing|ingly|ion|ions)",
    r"regret(?:s|ted|ting|ful|fully|table|tably)?",
    r"remorse(?:ful|fully|less|lessly)?",
    r"resent(?:s|ed|ing|ful|fully|ment|ments)?",
    r"contempt(?:uous|uously|ible|ibly)?",
    r"(?:un|dis)?compassion(?:ate|ately)?",
    r"(?:un)?sympath(?:y|ies|etic|etically)|sympathi[sz](?:e|es|ed|ing)",
    r"empath(?:y|etic|ic|etically)|empathi[sz](?:e|es|ed|ing)",
    r"seren(?:e|ely|ity)",
    r"tranquil(?:ly|lity|ity)?",
    r"(?:un)?enthusias(?:m|ms|t|ts|tic|tically)",
    r"courage(?:ous|ously)?|(?:en|dis)courag(?:e|es|ed|ing|ingly|ement)",
    r"(?:over)?confiden(?:t|tly|ce)",
    r"doubt(?:s|ed|ing|ful|fully|less|er|ers)?|(?:un|self)doubt(?:ed|edly)?",
    r"worr(?:y|ies|ied|iedly|ying|yingly|isome|ier|iers)|unworried",
    r"panic(?:s|ked|king|ky)?",
    r"terror(?:s|i[sz]ed?|i[sz]ing)?|terrif(?:y|ies|ied|ying|yingly)",
    r"horror(?:s)?|horrif(?:y|ies|ied|ying|yingly|ic|ically)|horribl[ey]",
    r"dread(?:s|ed|ing|ful|fully)?",
    r"rag(?:e|es|ed|ing)|(?:out|en)rag(?:e|es|ed|ing|eous|eously)",
    r"fur(?:y|ies|ious|iously)|infuriat(?:e|es|ed|ing|ingly)",
    r"irritat(?:e|es|ed|edly|ing|ingly|ion|ions)|irritabl[ey]|irritability",
    r"hat(?:e|es|ed|ing|eful|efully|er|ers|red|reds)",
    r"bitter(?:ly|ness|er|est)?|embitter(?:s|ed|ing)?",
    r"miser(?:y|ies|able|ably)",
    r"melanchol(?:y|ic|ia)",
    r"sorrow(?:s|ed|ing|ful|fully)?",
    r"delight(?:s|ed|edly|ing|ful|fully)?",
    r"(?:un)?cheer(?:s|ed|ing|y|ily|ful|fully|fulness|less|lessly)?",
    r"bliss(?:ful|fully|fulness)?",
    r"euphori(?:a|c|cally)",
    r"ecsta(?:sy|sies|tic|tically)",
    r"(?:optim|pessim)is(?:m|t|ts|tic|tically)",
    r"(?:im)?patien(?:ce|tly)|impatient",
    r"mist(?:ake|akes|ook|aken|akenly|aking|akable)|unmistakabl[ey]",
    r"suspicio(?:n|ns|us|usly|usness)",
    r"depress(?:es|ed|ing|ingly|ion|ions|ive|ives)?",
    r"(?:un)?happ(?:y|ier|iest|ily|iness)",
    r"(?:in)?sincer(?:e|ely|ity)",
    r"(?:dis)?honest(?:y|ly)?",
    r"(?:dis)?believ(?:e|es|ed|ing|er|ers|able|ably)|unbelievabl[ey]|(?:dis)?beliefs?",
)

_IRREGULAR = """
arise arose arisen; bear bore borne; beat beaten; become became; begin began begun; bend bent; bind bound; bite bit
bitten; bleed bled; blow blew blown; break broke broken; breed bred; bring brought; build built; burn burnt; buy bought;
catch caught; choose chose chosen; cling clung; come came; creep crept; deal dealt; dig dug; do does did done; draw drew
drawn; dream dreamt; drink drank drunk; drive drove driven; eat ate eaten; fall fell fallen; feed fed; fight fought; find
found; flee fled; fly flew flown; forbid forbade forbidden; forget forgot forgotten; forgive forgave forgiven; freeze
froze frozen; get got gotten; give gave given; go goes went gone; grind ground; grow grew grown; hang hung; have has had;
hear heard; hide hid hidden; hold held; keep kept; kneel knelt; know knew known; lay laid; lead led; lean leant; leap
leapt; learn learnt; leave left; lend lent; lie lay lain lying; light lit; lose lost; make made; mean meant; meet met; pay
paid; ride rode ridden; ring rang rung; rise rose risen; run ran; say said; see saw seen; seek sought; sell sold; send
sent; shake shook shaken; shine shone; shoot shot; show shown; shrink shrank shrunk; sing sang sung; sink sank sunk; sit
sat; sleep slept; slide slid; smell smelt; speak spoke spoken; speed sped; spell spelt; spend spent; spill spilt; spin
spun; spoil spoilt; stand stood; steal stole stolen; stick stuck; sting stung; stride strode; strike struck stricken;
strive strove striven; swear swore sworn; sweep swept; swell swollen; swim swam swum; swing swung; take took taken; teach
taught; tear tore torn; tell told; think thought thoughts; throw threw thrown; tread trod trodden; wake woke woken; wear
wore worn; weave wove woven; weep wept; win won; wind wound; withdraw withdrew withdrawn; write wrote written; overcome
overcame; foresee foresaw foreseen; mislead misled; undergo underwent undergone; rethink rethought; child children;
man men; woman women; person people; life lives; wife wives; knife knives; leaf leaves; loaf loaves; half halves; shelf
shelves; thief thieves; wolf wolves; foot feet; tooth teeth; mouse mice; goose geese; crisis crises; thesis theses
"""
VERBS = [group.split() for group in _IRREGULAR.split(";")]
# Words of their own besides being a form of another: banned themselves, they do not ban that one.
_OWN = "bore bit bound found ground left lay rose saw wound shot felt fell light lying leaves lives people had has"
OF_THEIR_OWN = frozenset(_OWN.split())

# Words that look like another with an ending; what they are made of, if anything, is another matter.
_ALONE = """
longing willing meaning being evening morning ceiling building wedding nothing something anything everything during
king ring sing thing string spring wing sling bring clothing outing inning cunning darling duckling pudding sibling
herring lightning shilling sterling stocking awning farthing gosling earring offing hearing saying bearing
question mention station nation motion notion passion mission version session section fashion caution portion fiction
function action ration potion lotion option region legion million billion union onion pension tension faction
fraction auction suction sanction mansion vision religion opinion champion companion position condition tradition
edition ambition petition addition vacation location vocation occasion profession
number matter letter better dinner corner offer order answer bother bitter mother father brother sister tender minor
major butter summer winter hammer ladder paper power tower shower flower water master meter metre former temper
ladder cover over under never ever after other another rather either neither whether together latter river
silver finger linger ginger hunger anger danger stranger manner banner batter utter gutter litter glitter
shutter cluster counter center charter quarter barter mister pepper copper upper supper zipper slipper proper
fever lever clever wonder ponder tinder cinder border folder shoulder elder alder adder bladder udder fodder shatter
scatter platter tatter clatter chatter barrier carrier terrier courier soldier premier cashier frontier
doctor actor factor tractor motor tutor error mirror terror horror minister sinister
business witness harness governess comment moment cement element document monument garment segment fragment
torment apartment department parliament experiment instrument ornament sentiment basement pavement compartment
reply supply family early ally rely belly jelly ugly only holy bully july italy fly hardly lately nearly barely really
likely lonely homely costly deadly scarcely
party army story country county city body lady baby study sorry pretty money honey journey chimney valley alley
penny puppy poppy daddy mummy nanny ferry berry cherry merry curry hurry carry marry dairy fairy diary daisy weary
very every many any enemy envoy navy ivory gravy heavy bevy levy ruby duty beauty county bounty booty pity mercy
ready steady tidy candy handy sandy body bunny belly rally tally sally dolly folly jolly holly trolley
handful awful unless bless stable table cable able fable capable constable vegetable
quality charity vanity gravity university community city unity dignity entity identity facility
finance balance romance distance instance chance dance glance advance science sentence silence audience fence hence
evidence experience sequence essence pence
united used seed need feed weed speed indeed hundred sacred naked wicked rugged ragged crooked beloved kindred
red bed shed wed sled bred fled news lens less glass bus gas thus plus yes this his its is was has as us
under until unto uncle union unit unite uniform universe unique
copy irony posy treaty gully hobby lobby buddy petty fancy factory victory forty colony felony agony comedy tragedy
liver cower sweater crater render wander hinder halter barber ledger badger member ember eager suffer differ foster monster
chapter rubber bugger burger plaster oyster limber timber muster earnest honest modest incest priest interest forest
harvest figment ferment lament pigment augment presence
final metal moral general formal mineral animal capital hospital signal royal loyal
"""
WHOLE = frozenset(_ALONE.split())
# Of these, what is no inflection of another word even if it is spelt like one.
NO_INFLECTION = frozenset(["longing", "willing", "evening", "inning", "cunning", "darling", "pudding", "wedding"])
