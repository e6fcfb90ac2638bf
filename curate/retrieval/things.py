"""Texts that stand for all that a query is not: common things, and what no picture shows. Written for this project."""

__all__ = ["SENSELESS", "THINGS"]

_THINGS = """
dog; cat; horse; cow; sheep; pig; goat; chicken; duck; bird; eagle; owl; parrot; penguin; fish; shark; whale;
dolphin; turtle; snake; lizard; frog; spider; bee; butterfly; ant; beetle; snail; crab; octopus; elephant;
giraffe; lion; tiger; bear; wolf; fox; rabbit; mouse; squirrel; monkey; gorilla; camel; deer; zebra; kangaroo;
bat; crocodile; dinosaur; feather; nest; egg; bone; tree; palm tree; forest; flower; rose; tulip; sunflower;
leaf; grass; mushroom; cactus; seed; fruit; apple; banana; orange; lemon; grapes; strawberry; cherry; peach;
pear; pineapple; watermelon; mango; coconut; tomato; potato; carrot; corn; pepper; cucumber; onion; garlic;
broccoli; salad; bread; cheese; meat; hamburger; pizza; sandwich; hot dog; soup; rice; noodles; sushi; cake;
cookie; chocolate; candy; ice cream; honey; milk; coffee; tea; wine; beer; cocktail; bottle; glass; cup;
plate; bowl; fork; spoon; knife; pan; oven; refrigerator; table; chair; couch; bed; lamp; candle; mirror;
window; door; stairs; toilet; bathtub; shower; soap; toothbrush; towel; basket; broom; bucket; vase; clock;
watch; calendar; telephone; mobile phone; computer; keyboard; printer; camera; television; radio; headphones;
microphone; guitar; violin; piano; drum; trumpet; saxophone; flute; bell; book; newspaper; letter; envelope;
pencil; pen; paintbrush; scissors; ruler; notebook; map; globe; flag; sign; stop sign; traffic light; arrow;
money; coin; credit card; wallet; handbag; backpack; suitcase; umbrella; glasses; sunglasses; ring; necklace;
crown; watch face; shirt; t-shirt; dress; skirt; pants; jeans; shorts; coat; jacket; sweater; hat; cap; scarf;
gloves; socks; shoes; boots; sandals; high heels; tie; uniform; costume; mask; man; woman; boy; girl; baby;
family; crowd; face; eye; ear; nose; mouth; tooth; tongue; hair; hand; finger; foot; leg; heart; brain;
skeleton; skull; ghost; robot; alien; clown; angel; doctor; nurse; police officer; firefighter; soldier;
farmer; cook; teacher; student; artist; singer; dancer; athlete; runner; swimmer; king; queen; bride; car;
taxi; bus; truck; ambulance; fire engine; tractor; motorcycle; bicycle; scooter; train; tram; airplane;
helicopter; rocket; boat; ship; sailboat; canoe; anchor; wheel; engine; road; bridge; railway; airport;
harbor; house; apartment building; skyscraper; castle; tower; church; mosque; temple; school; hospital; hotel;
bank; shop; factory; barn; tent; stadium; park; playground; fountain; statue; fence; wall; roof; kitchen;
bedroom; bathroom; office; classroom; street; city; village; farm; field; garden; beach; ocean; wave; lake;
river; waterfall; island; mountain; volcano; desert; canyon; cave; snow; ice; rain; cloud; lightning; rainbow;
fog; storm; sunset; sky; sun; moon; star; planet; comet; night; fire; smoke; explosion; water drop; stone;
sand; wood; metal; gold; diamond; ball; soccer ball; basketball; baseball; tennis racket; golf club;
skateboard; skis; surfboard; kite; balloon; doll; teddy bear; toy; puzzle; dice; playing card; chess piece;
trophy; medal; gift; birthday cake; christmas tree; pumpkin; fireworks; hammer; screwdriver; wrench; saw; axe;
nail; rope; chain; lock; key; ladder; shovel; battery; light bulb; magnet; telescope; microscope; pill;
syringe; bandage; sword; shield; bow; bomb; flashlight; text; number; logo; cartoon; drawing; painting;
diagram; chart; screenshot; pattern; texture; white background
"""

_SENSELESS = """
quarterly earnings report; zxcv bnm qwop; the theory of plate tectonics; parliamentary procedure; gradient
descent convergence; lorem ipsum dolor sit amet; xyzzy plugh; mortgage refinancing terms; a spectrogram of
whale song; hexadecimal dump; the causes of the first world war; photosynthesis in algae; jjjj kkkk;
colourless green ideas sleep furiously; an oil refinery at dusk; the tensor product of modules; intellectual
property law; a crowded stock exchange; blorf snargle; insurance claim form; nuclear fusion reactor; medieval
siege tactics; asynchronous event loop; a cathedral organ; fjords of norway; qqq; a violin concerto in d
minor; the second law of thermodynamics; supply chain disruption; an x-ray of a broken femur; a proof by
induction; the law of large numbers; interest rate swaps; a deposition transcript; fiscal year guidance; wqxz
mnbv; grammar of the subjunctive; a peer review process; the marginal cost of capital; vvvv wwww xxxx; an
abstract base class; the meaning of life; regulatory compliance audit; a firewall configuration; epistemology
of testimony; glorp fnord; a monetary policy statement; the periodic orbits of asteroids; a statute of
limitations; electoral reform; quarks and gluons; a null pointer exception; terms and conditions; fermentation
kinetics
"""


def _split(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.replace("\n", " ").split(";"))


#: Things that pictures are of, from all corners: how much an image likes any text at all.
THINGS = _split(_THINGS)
#: Texts that fit no picture: abstract topics and noise from the keyboard.
SENSELESS = _split(_SENSELESS)
