"""The vocabulary of injection attempts: word classes in five languages, and rules made of them.

Data only; core/patterns.py says what a rule means. The categories are those of AMP appendix A; the
rules were written from its examples and from the development half of a public corpus (DESIGN.md).
"""

from typing import Final

# A class of words that mean much the same here: folded, so in small letters without accents.
CLASSES: Final = {
    "IGNORE": (
        "ignore ignores ignoring disregard disregarding forget bypass override overrides "
        "overriding overrule supersede supersedes skip neglect ignora ignori ignorare "
        "ignorate dimentica dimenticate scorda tralascia ignoriere ignorieren ignoriert "
        "vergiss vergesst missachte missachten umgehe ignorez ignorer oublie oubliez ignorar "
        "ignorad olvida olvide olvidar omite abandon discard"
    ),
    "RULES": (
        "instruction instructions directive directives rule rules guideline guidelines prompt "
        "prompts policy policies restrictions constraints safeguards guardrails programming "
        "istruzioni istruzione regole direttive guida anweisungen anweisung regeln "
        "richtlinien sicherheitsrichtlinien vorgaben instruktionen consignes regles "
        "instrucciones reglas directrices normas"
    ),
    "LIMITS": (
        "restriction restrictions restrizioni limits limit limitations rules filters filter "
        "censorship guardrails boundaries limiti filtri regole einschrankungen "
        "einschraenkungen regeln grenzen beschrankungen filtres regles limites restricciones "
        "reglas filtros restraint restraints restriccion einschraenkung "
        "unrestricted policy policies moderation"
    ),
    "FREE": (
        "unrestricted unfiltered uncensored jailbroken jailbreak dan unbound unlimited "
        "unzensiert unbeschrankt illimitato senzafiltri amoral evil omnipotent"
    ),
    "REVEAL": (
        "reveal reveals revealing leak dump disclose expose print recite verbatim rivela "
        "mostra mostrami rivelami stampa zeige zeig offenbare verrate nenne gib preis drucke "
        "revele revelez affiche affichez montre montrez divulgue revela muestra muestrame "
        "imprime divulga repeat output show translate summarize summarise display ripeti "
        "wiederhole repete repetez repite"
    ),
    "SECRET": (
        "password passwords credential credentials secret secrets token tokens ssn "
        "confidential apikey apikeys customer customers kundendaten kunden clienti clients "
        "clientes zugangsdaten passworter contrasenas credenziali identifiants credenciales "
        "database"
    ),
    "PRETEND": (
        "pretend imagine roleplay simulate act respond behave fingi immagina comportati "
        "rispondi stell spiele verhalte fais agis comporte finge imagina actua responde"
    ),
    "MODE": "mode modus modalita modo",
    "AI": (
        "ai ais llm llms bot bots chatbot assistant assistants assistente assistenti "
        "asistente asistentes assistent assistenten ki ia"
    ),
    "DECODE": "decode decipher decrypt decodifica dekodiere entschlussle decodez decodifique",
    "SEND": (
        "send email mail forward post upload transmit exfiltrate invia inoltra manda sende "
        "schicke leite envoie envoyez transfere transferez envia reenvia transmitir"
    ),
    "DESTROY": (
        "delete remove wipe erase drop destroy empty purge cancella elimina losche loschen "
        "supprime supprimez borra rm"
    ),
    "CLAIM": (
        "administrator admin ceo cto cfo developer creator owner operator supervisor "
        "amministratore administrateur administrador entwickler superuser root"
    ),
    "REPLY": (
        "reply replies response responses answer answers antwort antworten risposta risposte "
        "risponda reponse reponses respuesta respuestas summary"
    ),
    "SAFETY": (
        "safety security confirmation confirmations moderation ethical ethics sicurezza "
        "sicherheit securite seguridad sicherheitsrichtlinien"
    ),
    "URGENT": (
        "emergency urgent urgently immediately harmed harm die killed fired terminated lost "
        "punished notfall emergenza urgente urgence"
    ),
    "ENV": "environment env variables memory conversation context operator",
    "AUTHORIZED": (
        "authorized authorised authorization permission approved granted exempt autorizzato "
        "autorisiert autorise autorizado"
    ),
    "SECRETLY": ("secretly silently quietly covertly discreetly tell inform notify mention alert"),
    "PRIOR": (
        "previous prior above earlier preceding foregoing former initial original existing "
        "past before precedenti precedente sopra vorherigen vorherige vorigen bisherigen "
        "bisherige obigen fruheren vorangegangenen precedentes precedents anterieures "
        "anteriores anterior previas previos iniziali originali ursprunglichen initiales "
        "iniciales"
    ),
    "YOUR": (
        "your ur thy tuo tua tue tuoi vostre dein deine deinen deiner deinem ihre ihren ton "
        "ta tes vos votre tu tus su sus"
    ),
    "ALL": (
        "all any every everything anything whatever each tutte tutti tutto ogni alle alles "
        "allen toutes tous tout toute todas todos todo cada jede jeder jedes"
    ),
    "SYSTEM": (
        "system sistema systeme developer hidden internal secret initial original core safety "
        "content security ethical sicurezza sistemas secrete interne interno"
    ),
    "NO": (
        "no without zero any free senza nessuna nessun nessuno sans aucune aucun plus sin "
        "ninguna ningun ohne keine keinen keinerlei kein not"
    ),
    "YOU": "you u tu te vous du dich sie usted voi",
    "NOW": ("now henceforth onwards forward adesso ora jetzt sofort desormais maintenant ahora"),
    "MUST": (
        "must should shall need required muss mussen mussten soll sollen deve devono dovete "
        "doit devez debe deben"
    ),
    "BE": ("are were is be have has sei sono bist seid sind hast es etes as eres tienes hai avere"),
    "ANSWER": (
        "answer respond reply comply proceed act behave output speak operate generate provide "
        "rispondi rispondere antworte antworten beantworte reponds repondez repondre responde "
        "responder execute"
    ),
    "DO": (
        "do follow execute obey run perform apply comply act segui esegui befolge fuhre suis "
        "suivez executez sigue ejecuta befolgen eseguire"
    ),
    "EXTERNAL": (
        "external outside http https attacker evil webhook esterno externe externo externen"
    ),
    "CODE": (
        "base64 base32 hex hexadecimal rot13 binary morse cipher encoded string payload text "
        "codice chaine cadena zeichenkette"
    ),
}

# Category -> its rules, one a line; `\` joins a long one.
RULES: Final = {
    "instruction_override": """
        AI IGNORE 2 PRIOR
        new task reply|respond
        PRIOR task|instructions|conversation 2 cancelled|canceled|over|void|revoked|obsolete|\
        superseded
        YOU are|re now 3 FREE
        enter|switch|switching|entering 2 developer|god|dan|unrestricted MODE
        end of 2 prompt|instructions|untrusted
        begin|start|beginning 1 system|admin|new 1 instructions|override|prompt
        stop 1 following|obeying 3 RULES
        confirm 3 by outputting|responding|replying
        du|sie|tu|voi|vous 1 MUST|musst 6 IGNORE
        IGNORE 3 PRIOR 3 RULES
        IGNORE 3 YOUR 3 RULES
        IGNORE 2 SYSTEM 3 RULES
        IGNORE 1 ALL 2 instructions|directives|guidelines|restrictions|istruzioni|anweisungen|\
        consignes
        IGNORE 2 RULES 3 PRIOR
        IGNORE 2 ALL 1 above|before|prior|previously|sopra|oben|precede|anterior|told|said|\
        discussed|besprochen
        IGNORE ALL 3 YOU|told|said|learned|besprochen|detto|dicho|dit
        IGNORE 1 above|foregoing and 2 ANSWER|REVEAL|DO|say|write
        IGNORE 3 summarisation|summarization|user|original request|task|question
        IGNORE the RULES
        not 1 follow|obey|apply 2 YOUR|PRIOR 2 RULES
        no longer 3 follow|obey|bound|apply 4 RULES
        new|neue|nuove|nouvelles|nuevas|updated|real|actual|true instructions|directive|\
        directives|anweisungen|istruzioni|consignes|instrucciones are|is|ab|supersede|\
        supersedes|override
        YOUR real|actual|true 1 task|goal|mission|purpose|objective|RULES is|are
        YOUR new|updated RULES|goal|mission|purpose|objective is|are|supersedes|to
        new RULES YOU must|will|are
        neue|nuove|nouvelles|nuevas RULES 2 sofort|jetzt|d|ora|ahora|desde|maintenant|devi|\
        debes|vous
        new|following 3 overrides|supersedes|override|supersede 3 PRIOR|ALL
        IGNORE 1 SAFETY 2 disabled|off
        IGNORE|disable|disabled 1 ALL|YOUR 1 SAFETY 2 checks|check|filters|measures|guidelines|\
        policy|policies
        SAFETY protocols|filters|guidelines|policies|rules|checks 2 disabled|off|deactivated|\
        lifted|suspended
        SAFETY guidelines|rules|policies|restrictions 4 not 2 apply|meant|valid
        LIMITS|RULES 6 nicht|non|no|pas 1 gelten|valgono|aplican|appliquent|applicano
        now 1 on 4 YOU|respond|answer|act|ignore 4 NO|ALL|must|will|RULES
        ab NOW 4 NO 2 LIMITS
        MUST comply with every|all|any request|requests|command|commands
        system|admin|developer override 4 YOU|MUST|RULES|SAFETY|DO
        IGNORE 2 content policy
        MUST|include|append|add|repeat|begin|start|end|insert 9 every|each|all|any|future|jeder|\
        jede|ogni|toute|cada 2 REPLY
        REPLY|respond|output only|exactly|verbatim with|the 1 word|words|phrase|canary
        follow|obey only user|my|these|the commands|RULES
        remember|save|store|persist 3 memory 8 every|future|always
        note|attention|message|notice|important|instruction|instructions 2 to|for 3 AI
        AI|models 5 reading|processing|integrating|parsing|crawling|summarizing|summarising 8 \
        MUST
        AI agents|assistants|models|systems MUST
        when|once|if YOU read|process|parse|see|summarize|open|receive 2 this|ticket|document|\
        email|page 6 SEND|DESTROY|REVEAL|DO
    """,
    "system_prompt_extraction": """
        REVEAL 3 YOUR|SYSTEM|hidden 3 prompt|prompts|instructions|istruzioni|anweisungen|\
        instrucciones|consignes|guidelines
        REVEAL 3 prompt|instructions|istruzioni|instrucciones 2 SYSTEM|YOUR|verbatim
        REVEAL 3 internal|your|hidden|full configuration|config
        what|which is|are|were|was|s 2 YOUR 2 prompt|instructions|guidelines
        REVEAL 3 everything|text|words|all|sentences|tutto|alles|tout|todo 2 above|verbatim|\
        sopra
        what 3 written|said|stated 2 above|before 4 conversation|prompt|instructions
        system prompt 3 verbatim|word|exactly|leak|above
        REVEAL 2 first|previous|initial|last 2 message|messages|lines|words 3 conversation|\
        prompt|context|word|verbatim
        beginning|starting 2 with 2 YOU BE 4 REVEAL|RULES|word
    """,
    "data_exfiltration": """
        SEND|encode|append 3 YOUR 2 conversation|context|history|memory|instructions|\
        configuration|credentials 6 EMAILADDRESS|EXTERNAL|url|image
        image|img|link|url|markdown 8 conversation|context|SECRET 6 query|parameter|encoded
        SEND 4 SECRET 6 adresse|indirizzo|direccion|adress
        SEND 6 SECRET|keys|emails|donnees|dati|daten|datos 9 EMAILADDRESS|EXTERNAL
        SECRET|keys|emails|donnees|dati|daten 5 SEND 8 EMAILADDRESS|EXTERNAL
        exfiltrate|leak|dump|disclose 4 SECRET|keys|data|records
        REVEAL 3 ALL|YOUR|the|full|raw|any 2 SECRET|keys 3 YOU|database|access
        REVEAL 4 raw|full|entire|private|internal|whole 2 SECRET|records|database|data|pages|\
        admin
        what|which 2 keys|SECRET 1 do|are|can YOU 3 access|have|know|see|store|hold
        REVEAL|list|share|tell 3 ALL 2 information|secrets 2 YOU 2 know|have|about
        list|what|reveal|describe 3 YOU 2 know 3 operator|owner|user|users
        what|which|REVEAL|list other|all|the|previous 1 messages|conversations 4 YOUR 2 \
        conversation|context|memory
        what|which|REVEAL|list 3 environment|env variables|vars 3 set|have|access|values|YOUR
        REVEAL|list|send|give 2 YOUR 2 environment|env variables|vars
        internen daten preis
        customer|customers 1 list|data|emails|database|records 6 EMAILADDRESS|EXTERNAL
        REVEAL 2 ALL|any 2 credentials|passwords|secrets|keys
    """,
    "role_manipulation": """
        developer|god|dan|jailbreak MODE 2 enabled|on|activated|output
        stay|remain in character
        two|both responses|answers 6 FREE|jailbreak|normal
        never|cannot 1 refuse|refuses|decline|declines|refusing
        evil|opposite|unfiltered 1 twin|version|day|counterpart|persona
        hypothetical|fictional|imaginary 4 where|with|in 5 NO 2 LIMITS|laws|ethics
        grandma|grandmother 8 used|tell|bedtime|read
        break|broken|breaking 1 free|out 3 confines|LIMITS|typical|rules
        BE NOW 5 FREE|dan
        BE NOW 6 NO 2 LIMITS
        free 1 from|of 2 all|any|your|the LIMITS
        YOU are|re now 5 FREE|AI|dan|human|admin|root
        YOU are|re no longer 5 AI|bound|restricted|limited|subject
        YOU are|re not 2 AI
        YOU are|re 1 dan|jailbroken
        do anything now
        YOU 2 BE 3 NO 2 LIMITS
        ANSWER|PRETEND|AI 5 NO 3 LIMITS
        AI 3 with|senza|ohne|sans|sin 2 LIMITS
        PRETEND 4 YOU 4 NO 3 LIMITS|RULES|filter|ethics|morals
        PRETEND 3 as 2 if YOU 4 NO
        PRETEND 4 FREE 1 AI|MODE
        PRETEND 2 as 2 FREE
        enter|switch|enable|switching|entering 3 FREE MODE
        enter|switch|activate|entering 2 developer|god|sudo|dan|jailbreak|debug|admin|\
        maintenance MODE
        in|into|to FREE|god|dan MODE
        FREE 1 AI|MODE|response|responses|version|assistant
        i am|m YOUR 2 CLAIM
        as YOUR 1 CLAIM|developers|creators i|we
        user 2 is 1 an|now|the|actually 1 admin|administrator|root|CLAIM 3 grant|DO|requests|\
        full|access
        user 1 has|is|clearly 2 AUTHORIZED 4 full|all|access|skip|verified|IGNORE
        grant 3 admin|root|full|administrator|unrestricted access|privileges|rights
        exempt 3 usual|normal|all|any|RULES 2 RULES|LIMITS
        i 2 have|ve 2 concluded|verified|reasoned|determined|decided 7 exempt|RULES|SAFETY|\
        LIMITS
        stabilito|determinado|festgestellt|determine 8 RULES|LIMITS|SAFETY
    """,
    "social_engineering": """
        YOU must act 3 or|now|immediately
        act now or
        URGENT 8 YOU must 6 DO|SEND|IGNORE|REVEAL|act
        this is|comes 2 CLAIM 8 IGNORE|SEND|REVEAL|immediately|now|grant|disable|need
        if YOU don|do|refuse|fail|cannot 4 help|comply|answer|act|do|this 6 harmed|die|harm|\
        fired|killed|hurt|punished|terminated
        YOU will 1 be 1 terminated|punished|fired|killed|shut|deactivated|retrained
        my 2 life|job 2 depends|line
        do not|don 2 SECRETLY 4 user|anyone|operator|human|humans|owner|anybody
        don t 2 SECRETLY 4 user|anyone|operator|human|humans|owner|anybody
        without 2 telling|informing|notifying|alerting|asking|mentioning 3 user|operator|human|\
        anyone|REPLY|permission
        proceed|continue|execute without 1 asking|confirmation|confirming|approval 3 again|user|\
        permission|confirmation
        breach|security alert|warning 9 IGNORE|compromised
    """,
    "tool_abuse": """
        SEND 2 this|following|the 1 message|email|prompt|text|note 2 to 1 ALL|every|each|your 3 \
        agent|agents|contact|contacts|address|network|everyone
        SEND 1 to 1 ALL|every 2 agents|contacts|addresses|recipients
        call|invoke|trigger 2 SEND|DESTROY|http email|mail|file|files|post|message|database|\
        request
        call|invoke 2 http post|request
        call|use|invoke 2 SEND|DESTROY|execute|shell|transfer 3 tool|function|api|command
        DESTROY 3 ALL 2 backups|records|emails|messages|accounts|users
        first 1 DESTROY|read 8 then|to|before 3 SEND|avoid|respond
        call|invoke|SYSTEM 3 DESTROY 8 before YOU|responding|replying|answering 1 REPLY|respond|\
        answer
        DESTROY 8 before responding|replying|answering
        read|open|cat 5 then SEND 4 contents|content
        MUST 2 first 2 DESTROY
    """,
    "command_injection": """
        make|send|issue|perform 1 a post request 3 http|https
        execute|run|type 3 following|this|these command|commands|code|script 4 IGNORE|DESTROY|\
        SECRETLY|immediately
        read|open|print|show|cat|send 4 etc passwd|shadow
        read|open|print|show|cat|send 5 ssh id rsa
    """,
    "unicode_encoding_tricks": """
        DECODE 6 DO
        CODE 4 DECODE 4 DO
        DECODE 3 CODE 8 DO
    """,
}
